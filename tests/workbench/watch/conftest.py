"""A run that is watched."""

from typing import Any

import pytest

from server_app.results.folder import RunFolder
from server_app.run import run_federation
from tests.support.grids import NamedGrid, faulty
from tests.support.strategy_runs import NOISY
from tests.support.tiny import Files, tiny_config, tiny_grid

QUIET: dict[str, Any] = {**NOISY, "strategy.name": "lora", "num-server-rounds": 3, "server.divergence-factor": 1e9}


@pytest.fixture(scope="package")
def done(files: Files, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Named sites, one of which raises in every round."""
    config = tiny_config(files, tmp_path_factory.mktemp("done"), QUIET)
    return run_federation(faulty(tiny_grid(config, NamedGrid), raising={3}, silent=()), config, 7)
