"""The ServerApp: configuration -> strategy -> run -> report."""

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from common.config import ConfigError, RunConfig
from server_app.results.checkpoints import CheckpointError
from server_app.results.units import MARK, TRACEBACK, speak
from server_app.rounds.cohort import FederationError
from server_app.run import run_federation

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the configured strategy on the connected clients and write its results."""
    try:
        run_federation(grid, RunConfig.parse(context.run_config), context.run_id)
    except Exception as error:
        expected = isinstance(error, ConfigError | CheckpointError | FederationError)
        text = str(error) if expected else f"{type(error).__name__}: {error} {TRACEBACK}"
        speak(f"{MARK}ERROR: {text}".replace("\n", f"\n{MARK}"))
        raise
