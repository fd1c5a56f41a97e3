"""Runs that are killed at the end of a round, and go on."""

from pathlib import Path
from typing import Any

import pytest

from common.config import RunConfig
from server_app import run, session
from server_app.results.folder import RunFolder
from tests.support.tiny import run_tiny, tiny_grid
from workbench.simulation.in_process import InProcessGrid

REPEATABLE: dict[str, Any] = {
    "num-server-rounds": 4,
    "privacy.epsilon": 0.0,
    "privacy.noise-multiplier": 0.5,
    "privacy.trust": "local",
    "privacy.sampling-rate": 0.7,
}
"""Private rounds; with ``seed_randomness`` two runs of them can be held against each other."""


class Killed(BaseException):
    """What a killed process looks like from inside."""


def killed_after(
    config: RunConfig,
    rounds: int,
    monkeypatch: pytest.MonkeyPatch,
    where: str = "after",
    grid: InProcessGrid | None = None,
) -> RunFolder:
    """Run until the end of a round: before or after its checkpoint is written."""
    original = session.Session._save

    def save(around: session.Session, state: Any) -> None:
        if state.round == rounds and where == "before":
            raise Killed
        original(around, state)
        if state.round == rounds:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(session.Session, "_save", save)
        with pytest.raises(Killed):
            run.run_federation(grid or tiny_grid(config), config, plots=False)
    return RunFolder(Path(config.output.dir) / config.output.name)


def resumed(config: RunConfig, folder: RunFolder, **changes: Any) -> RunFolder:
    """Go on with the run in ``folder`` to its end."""
    return run_tiny(RunConfig.parse(config.flat() | {"resume": str(folder.path), **changes}))
