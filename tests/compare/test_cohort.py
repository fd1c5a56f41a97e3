"""Gradients of a cohort in one pass: the same run as client by client, up to rounding."""

import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from client_app import app as client_module
from common.config import RunConfig
from common.models import AdaptedModel
from compare.cohort import CohortGrid, can_be_joined
from server_app.run import run_federation
from server_app.run_folder import RunFolder
from tests.server_app.test_resume import REPEATABLE
from tests.tiny import Files, final_adapter, run_tiny, tiny_config


def run_together(config: RunConfig) -> RunFolder:
    grid = CohortGrid(client_module.app, config.flat(), config.federation.num_clients)
    return run_federation(grid, config)


@pytest.mark.parametrize("changes", [{}, {"strategy.name": "lora", "data.examples-per-client": 3}])
def test_a_run_with_the_cohorts_gradients_in_one_pass_is_the_run_client_by_client(
    files: Files, tmp_path: Path, changes: dict[str, Any]
) -> None:
    changes = {**REPEATABLE, **changes, "num-server-rounds": 4, "server.learning-rate": 1.0}
    one = run_tiny(tiny_config(files, tmp_path / "one", changes))
    with patch.object(client_module, "local_update", side_effect=AssertionError("client by client")):
        other = run_together(tiny_config(files, tmp_path / "other", changes))
    assert (final_adapter(one) - final_adapter(other)).norm() < 1e-3 * final_adapter(one).norm()
    losses = [json.loads((done.path / "report.json").read_text())["outcome"]["final"]["loss"] for done in (one, other)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_base_model_that_drops_out_is_computed_client_by_client(
    files: Files, tmp_path: Path, adapted: AdaptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its dropout is on in a client's step and off in the pass for all."""
    monkeypatch.setattr(adapted.model.get_base_model().config, "attention_dropout", 0.1)
    monkeypatch.setattr("compare.cohort.group_gradients", None)
    config = tiny_config(files, tmp_path, {"num-server-rounds": 1})
    with patch("client_app.site.load_adapted_model", return_value=adapted):
        assert run_together(config).read_metrics()[1]["replies"] == 6


@pytest.mark.parametrize(
    "change",
    [
        {"train.local-steps": 2},
        {"train.local-epochs": 1, "train.local-steps": 0},
        {"train.gradient-accumulation": 2},
        {"lora.dropout": 0.1},
    ],
)
def test_what_one_pass_cannot_do_is_done_client_by_client(change: dict[str, Any]) -> None:
    assert can_be_joined(RunConfig())
    assert not can_be_joined(RunConfig.parse(change))
