"""FedCG: its examples, its AutoEncoder, a restart and what it refuses."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from client_app import app as client_module
from common.config import ConfigError
from common.data import private_tokens
from common.model.adapted import AdaptedModel
from server_app.priors.collected import CollectedGradients, train_informed
from server_app.strategies import two_stage
from server_app.strategies.fedcg import FedCg
from tests.support.fedcg_runs import CONV, FEDCG, report_of
from tests.support.strategy_runs import Make
from tests.support.tiny import CLIENTS, Files, checked, planned, start, tiny_config, vectors

pytestmark = pytest.mark.usefixtures("few_steps")


def test_the_loss_falls(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(two_stage, "ADAM_STEPS", 100)
    changes = {**FEDCG, "num-server-rounds": 6, "server.learning-rate": 3.0}
    outcome = report_of(files, tmp_path, changes)["outcome"]
    assert outcome["final"]["loss"] < 0.99 * outcome["base"]["loss"]


def test_stage_one_and_the_rounds_see_other_examples(
    make: Make, adapted: AdaptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each client's eight rows two feed stage 1 and the other six every round, the same ones each time."""
    seen: dict[str, list[list[tuple[int, ...]]]] = {"gradient_stream": [], "local_update": []}
    for name in ("gradient_stream", "local_update"):
        original = getattr(client_module, name)

        def spy(*arguments: Any, name: str = name, original: Any = original) -> Any:
            seen[name].append([tuple(row[row > 0].tolist()) for row in arguments[2].input_ids])
            return original(*arguments)

        monkeypatch.setattr(client_module, name, spy)
    strategy, grid = make({**FEDCG, "num-server-rounds": 2})
    start(strategy, grid)
    first, rounds = seen["gradient_stream"], seen["local_update"]
    assert rounds[:CLIENTS] == rounds[CLIENTS:]
    for client, (collected, trained) in enumerate(zip(first, rounds[:CLIENTS], strict=True)):
        config = strategy.config
        whole = private_tokens(config.data, adapted.tokenizer, client, CLIENTS, config.seed).input_ids
        assert (len(collected), len(trained)) == (2, 6)
        assert sorted(collected + trained) == sorted(tuple(row[row > 0].tolist()) for row in whole)


def test_other_strategies_keep_all_examples_in_both_stages(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    original = client_module.local_update

    def spy(*arguments: Any) -> Tensor:
        counts.append(len(arguments[2]))
        return original(*arguments)

    monkeypatch.setattr(client_module, "local_update", spy)
    strategy, grid = make({"num-server-rounds": 1})
    start(strategy, grid)
    assert counts == [8] * CLIENTS


def low_rank(count: int, dim: int) -> Tensor:
    """Rows in a space of three dimensions."""
    return vectors(count, 3, 1) @ vectors(3, dim, 2)


def test_the_autoencoder_is_trained_on_the_gradients_that_came(make: Make) -> None:
    """Rows of a three-dimensional space are learnt; other vectors are not."""
    strategy, _ = make(FEDCG)
    settings = replace(
        two_stage.prior_settings(strategy.config.codec, strategy.config.seed, strategy.layout),
        steps=300,
        learning_rate=2e-3,
    )
    rows = low_rank(40, strategy.layout.size)
    codec, report = train_informed(strategy.layout, rows, settings)
    assert report.quality["captured_energy"] > 0.8
    assert report.losses[-1] < 0.3 < report.losses[0]
    other = vectors(1, strategy.layout.size, 9)[0]
    assert torch.cosine_similarity(codec.decode(codec.encode(other)), other, dim=0) < 0.2


@pytest.mark.parametrize("changes", [CONV, {}], ids=["conv", "linear"])
def test_codes_have_about_the_norm_that_they_are_clipped_to(make: Make, changes: dict[str, Any]) -> None:
    strategy, grid = make({**FEDCG, **changes})
    codec = strategy.prepare(grid)
    assert isinstance(strategy, FedCg)
    norms = torch.stack([codec.encode(row).norm() for row in strategy._collect_gradients(grid)])
    assert norms.mean() == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize("changes", [CONV, {}], ids=["conv", "linear"])
def test_a_code_of_zeros_decodes_and_the_report_says_to_what(make: Make, changes: dict[str, Any]) -> None:
    strategy, grid = make({**FEDCG, **changes})
    codec = strategy.prepare(grid)
    assert isinstance(strategy, FedCg)
    rows = strategy._collect_gradients(grid)
    zeroed = codec.decode(torch.zeros(codec.size))
    assert torch.isfinite(zeroed).all()
    assert zeroed.any()
    prior = strategy.state.prior
    assert prior["zeroed_norm"] == pytest.approx(float(zeroed.norm() / rows.norm(dim=1).mean()), rel=1e-4)
    expected = torch.cosine_similarity(zeroed, rows.mean(dim=0), dim=0)
    assert prior["zeroed_cosine"] == pytest.approx(float(expected), abs=1e-5)


def test_zero_gradients_are_not_trained_on() -> None:
    rows = torch.zeros(4, 10)
    rows[2] = 1.0
    assert CollectedGradients(rows, 1).sample(5).sum(dim=1).tolist() == [10.0] * 5
    with pytest.raises(ValueError, match="no collected gradient differs from zero"):
        CollectedGradients(torch.zeros(2, 10), 1)


def test_a_codec_that_nothing_could_be_learnt_for_is_refused_by_key() -> None:
    with pytest.raises(ConfigError, match=r'strategy\.name = "fedcg" with codec\.kind = "identity"'):
        checked({"strategy.name": "fedcg", "codec.kind": "identity"})


def test_a_linear_code_is_trained_whatever_the_form_needs(files: Files, adapted: AdaptedModel, tmp_path: Path) -> None:
    """Fewer values than tensors: too few for ``per-tensor``, which fedcg does not read."""
    planned(tiny_config(files, tmp_path, {**FEDCG, "codec.form": "per-tensor", "codec.size": 3}), adapted, CLIENTS)
