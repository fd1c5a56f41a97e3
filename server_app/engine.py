"""Flower's simulation engine beside this app: it starts in the same process and at the same time."""

import sys
import time
from pathlib import Path

_PATIENCE = 60.0
"""Seconds; Ray itself gives up after 30, whereupon Flower ends the run."""


def wait_for_engine(patience: float = _PATIENCE) -> None:
    """Let Ray start before anything computes; at once where there is none to wait for.

    A real model that is scored meanwhile takes every core, and a run on few of them ended before any client was asked.
    """
    if Path(sys.argv[0]).name != "flwr-simulation":
        return
    import ray  # noqa: PLC0415 - which a deployed server need not have

    deadline = time.monotonic() + patience
    while not ray.is_initialized() and time.monotonic() < deadline:
        time.sleep(0.2)
