"""Flower's engine around this app: whether it simulates the clients, and that it has started where it does."""

import sys
import time
from pathlib import Path

from flwr.serverapp import Grid

from server_app.results.resuming import Clients

_PATIENCE = 60.0
"""Seconds; Ray itself gives up after 30, whereupon Flower ends the run."""
_DEPLOYED_GRID = "HttpGrid"  # by its name: to import it takes a second, where nothing is deployed for nothing


def clients_of(grid: Grid) -> Clients:
    """What answers on a grid: sites over Flower's deployment engine, or clients of this machine."""
    deployed = any(kind.__name__ == _DEPLOYED_GRID for kind in type(grid).__mro__)
    return "deployed" if deployed else "simulated"


def wait_for_engine(patience: float = _PATIENCE) -> None:
    """Let Ray, of a simulation, start before anything computes; at once where there is none to wait for.

    A real model that is scored meanwhile takes every core, and a run on few of them ended before any client was asked.
    """
    if Path(sys.argv[0]).name != "flwr-simulation":
        return
    import ray  # noqa: PLC0415 - which a deployed server need not have

    deadline = time.monotonic() + patience
    while not ray.is_initialized() and time.monotonic() < deadline:
        time.sleep(0.2)
