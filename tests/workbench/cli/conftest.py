"""A command line that starts no Flower."""

from typing import Any

import pytest

from common.config import RunConfig
from workbench.cli import run as run_command


@pytest.fixture
def _no_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        pytest.fail("Flower was started")

    monkeypatch.setattr(run_command, "launch", refuse)


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[RunConfig]:
    """The configurations that would have been run; each launch is interrupted at once."""
    configs: list[RunConfig] = []

    def interrupt(config: RunConfig, *_: Any) -> None:
        configs.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr(run_command, "launch", interrupt)
    return configs
