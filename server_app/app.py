"""The ServerApp: configuration -> strategy -> run -> report."""

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from common.config import ConfigError, RunConfig
from server_app.engine import wait_for_engine
from server_app.errors import CommandError
from server_app.results.units import MARK, TRACEBACK, speak
from server_app.run import run_federation

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the configured strategy on the connected clients and write its results."""
    try:
        check_configuration(grid.run.run_id, context.run_id)
        config = RunConfig.parse(context.run_config)
        if config.model.name != "demo":  # which takes no core for long
            wait_for_engine()
        run_federation(grid, config, context.run_id)
    except Exception as error:
        expected = isinstance(error, ConfigError | CommandError)
        text = str(error) if expected else f"{type(error).__name__}: {error} {TRACEBACK}"
        speak(f"{MARK}ERROR: {text}".replace("\n", f"\n{MARK}"))
        raise


def check_configuration(run: int, configured: int) -> None:
    """Refuse (``ConfigError``) the configuration of another run: Flower 1.41 has one for a whole series of runs."""
    if run != configured:
        raise ConfigError(
            f"this is run {run}, and Flower hands it the configuration of run {configured}, which somebody started in "
            "its series meanwhile; start it anew, in a series of its own, as flwr run does"
        )
