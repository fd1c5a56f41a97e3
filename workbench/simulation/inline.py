"""``dr-encoder run --engine inline``: server and clients in this process, one client after the other, without Ray.

The strategies, the ClientApp and the messages are those of ``flwr run`` (a test holds both equal), and so is what is
written. It starts in seconds, has no overhead to speak of and one copy of the model, and computes on one core.
"""

from flwr.serverapp import Grid

from common.config import RunConfig
from server_app.errors import CommandError
from server_app.results.checkpoints import CheckpointError
from server_app.results.console import ConsoleLog
from server_app.rounds.cohort import FederationError
from server_app.run import run_federation
from workbench.simulation.cohort_grid import grid_for
from workbench.stopping import terminate_as_interrupt


def run_inline(config: RunConfig, clients: int) -> None:
    """Run ``config`` with so many simulated clients; raises ``CommandError`` where the run did not complete."""
    grid: Grid = grid_for(config, clients)
    with terminate_as_interrupt():
        try:
            run_federation(grid, config, say=ConsoleLog(mark=""))
        except (CheckpointError, FederationError) as error:
            raise CommandError(str(error)) from error
