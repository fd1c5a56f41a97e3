"""The largest seed that is allowed is one that everything takes."""

from pathlib import Path

import pytest

from common.config.fields import LARGEST_SEED
from server_app.strategies import STRATEGIES
from tests.support.tiny import Files, run_tiny, tiny_config


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_run_with_it_ends(files: Files, tmp_path: Path, name: str) -> None:
    seeds = {"seed": LARGEST_SEED, "data.partitioner": "dirichlet"}
    private = {"privacy.epsilon": 8.0, "stage-one.private": True, "num-server-rounds": 1}
    config = tiny_config(files, tmp_path, seeds | private | {"strategy.name": name, "fedlpp.rounding": "stochastic"})
    assert (run_tiny(config, plots=True).path / "report.json").exists()
