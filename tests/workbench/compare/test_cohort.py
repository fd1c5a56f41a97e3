"""Gradients of a cohort in one pass: the same run as client by client, up to rounding."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from client_app import app as client_module
from client_app import site as site_module
from common.config import ConfigError, RunConfig
from common.data import TokenizedExamples
from common.model.adapted import AdaptedModel, load_adapted_model
from server_app.results.folder import RunFolder
from server_app.run import run_federation
from tests.support.strategy_runs import VARIANTS
from tests.support.tiny import Files, final_adapter, run_tiny, tiny_config
from workbench.simulation.cohort_grid import CohortGrid, grid_for
from workbench.simulation.in_process import InProcessGrid

pytestmark = pytest.mark.usefixtures("few_steps")

FEW, NONE = 1, 4
"""Partitions of the client that holds fewer examples than a batch, and of the one that holds none."""


def run_together(config: RunConfig) -> RunFolder:
    grid = grid_for(config, config.federation.num_clients)
    assert isinstance(grid, CohortGrid)
    return run_federation(grid, config, plots=False)


@pytest.fixture
def unequal_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """One client of the tiny run has 3 examples for a batch of 8, one has none and says so."""
    original: Callable[..., TokenizedExamples] = site_module.private_tokens

    def tokens(data: Any, tokenizer: Any, partition: int, *others: Any) -> TokenizedExamples:
        if partition == NONE:
            raise ConfigError("this client has no examples to train on")
        held = original(data, tokenizer, partition, *others)
        return held.select(torch.arange(3)) if partition == FEW else held

    monkeypatch.setattr(site_module, "private_tokens", tokens)


@pytest.mark.usefixtures("unequal_clients")
@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "fedcg, private"])  # it needs noise
def test_a_run_with_the_cohorts_gradients_in_one_pass_is_the_run_client_by_client(
    files: Files, tmp_path: Path, variant: str
) -> None:
    changes = {"server.learning-rate": 1.0, **VARIANTS[variant]}
    config = tiny_config(files, tmp_path / "one", changes)
    one = run_tiny(config)
    with patch.object(client_module, "local_update", side_effect=AssertionError("client by client")):
        other = run_together(tiny_config(files, tmp_path / "other", changes))
    moved = final_adapter(one) - load_adapted_model(config.model, config.lora, config.seed).initial
    assert (final_adapter(one) - final_adapter(other)).norm() < 1e-5 * moved.norm()
    for folder in (one, other):
        assert [(row["replies"], row["failures"]) for row in folder.read_metrics()[1:]] == [(5, 1)] * 3
    losses = [json.loads((done.path / "report.json").read_text())["outcome"]["final"]["loss"] for done in (one, other)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_base_model_that_drops_out_is_computed_client_by_client(
    files: Files, tmp_path: Path, adapted: AdaptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its dropout is on in a client's step and off in the pass for all."""
    config = tiny_config(files, tmp_path)
    with patch("workbench.simulation.cohort_grid.load_adapted_model", return_value=adapted):
        assert type(grid_for(config, config.federation.num_clients)) is CohortGrid
        monkeypatch.setattr(adapted.model.get_base_model().config, "attention_dropout", 0.1)
        assert type(grid_for(config, config.federation.num_clients)) is InProcessGrid


@pytest.mark.parametrize(
    "change",
    [
        {"train.local-steps": 2},
        {"train.local-epochs": 1, "train.local-steps": 0},
        {"train.gradient-accumulation": 2},
    ],
)
def test_what_one_pass_cannot_do_is_done_client_by_client(change: dict[str, Any]) -> None:
    few = {"federation.num-clients": 2}
    assert type(grid_for(RunConfig.parse(few), 2)) is CohortGrid
    assert type(grid_for(RunConfig.parse(few | change), 2)) is InProcessGrid
