"""Runs that somebody stops or kills while they go on, in this process and in one of their own."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flwr.app import Message

from common.config import RunConfig
from common.wire.records import round_of
from server_app.results.folder import RunFolder
from server_app.run import run_federation
from tests.support.grids import NamedGrid, faulty
from tests.support.tiny import tiny_grid

_PATIENCE = 120.0  # seconds, on a busy machine


class AskingGrid(NamedGrid):
    """Named sites; when the first instruction of round ``at`` is answered, somebody asks the run to stop."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.at = 0
        self.folder = RunFolder(Path())

    def answer(self, message: Message) -> Message | None:
        if round_of(message) == self.at:
            self.folder.ask_to_stop()
        return super().answer(message)


def stopped_in(config: RunConfig, server_round: int) -> RunFolder:
    """A run that is asked to stop in the middle of a round."""
    grid = tiny_grid(config, AskingGrid)
    grid.at, grid.folder = server_round, RunFolder(Path(config.output.dir) / config.output.name)
    return run_federation(grid, config, plots=False)


def child(config: RunConfig, seconds: float) -> subprocess.Popen[bytes]:
    """A process that runs ``config`` with named sites, of which site 3 fails, pausing at every answer."""
    code = f"from tests.support.stopping_runs import main; main({config.flat()!r}, {seconds})"
    return subprocess.Popen([sys.executable, "-c", code.replace("inf,", "float('inf'),")], stdout=subprocess.DEVNULL)


def main(flat: dict[str, Any], seconds: float) -> None:
    """What the process of ``child`` does."""
    config = RunConfig.parse(flat)
    grid = faulty(tiny_grid(config, SlowGrid), raising={3}, silent=())
    grid.pause = seconds  # type: ignore[attr-defined]
    run_federation(grid, config, plots=False)


class SlowGrid(NamedGrid):
    """Sites that take their time."""

    pause = 0.0

    def answer(self, message: Message) -> Message | None:
        time.sleep(self.pause)
        return super().answer(message)


def until(happened: Callable[[], bool], what: str) -> None:
    """Wait for something; an error names ``what`` when it has not come within two minutes."""
    end = time.monotonic() + _PATIENCE
    while not happened():
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(0.1)
