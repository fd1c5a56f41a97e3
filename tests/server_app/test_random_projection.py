"""Strategy random-projection: stage 2 alone."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from common.codecs import LinearCodec
from common.config import ConfigError
from common.model.adapted import AdaptedModel
from tests.support import reference
from tests.support.strategy_runs import NOISY, Make
from tests.support.tiny import Files, final_adapter, planned, run_tiny, start, tiny_config

NAME = "random-projection"


def test_the_loss_falls(files: Files, tmp_path: Path) -> None:
    changes = {"strategy.name": NAME, "num-server-rounds": 6, "server.learning-rate": 0.3, "codec.size": 256}
    outcome = json.loads((run_tiny(tiny_config(files, tmp_path, changes)).path / "report.json").read_text())["outcome"]
    assert outcome["final"]["loss"] < 0.9 * outcome["base"]["loss"]


def test_epsilon_is_that_of_the_rounds_alone(make: Make) -> None:
    """The same charges, hence the same epsilon, as plain LoRA under this noise."""
    epsilons = []
    for strategy_name in (NAME, "lora"):
        strategy, grid = make({**NOISY, "strategy.name": strategy_name})
        start(strategy, grid)
        assert {charge.label for charge in strategy.account._ledger.charges} == {"stage 2: gradient"}
        assert strategy.account.plan.stage_one is None
        epsilons.append(strategy.account.certify())
    assert epsilons[0] == pytest.approx(epsilons[1], rel=1e-6)


def test_a_random_projection_equals_the_plain_loop(files: Files, adapted: AdaptedModel, tmp_path: Path) -> None:
    config = tiny_config(files, tmp_path, {"strategy.name": "random-projection", "server.learning-rate": 0.4})
    expected = reference.train(config, adapted)
    assert (expected - adapted.initial).norm() > 0.03
    torch.testing.assert_close(final_adapter(run_tiny(config)), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"codec.kind": "conv"},
            r'codec\.kind = "conv": strategy random-projection',
        ),
        ({"codec.kind": "identity"}, r'codec\.kind = "identity": strategy random-projection'),
        *(
            ({"codec.form": form}, rf'codec\.form = "{form}": .*allowed: global, per-tensor')
            for form in ("trained", "optimum", "variance-proportional")
        ),
        ({"codec.form": "per-tensor", "codec.size": 15}, r"codec\.size = 15 is too small"),
        ({"codec.size": 0}, r"codec\.size = 0"),
    ],
)
def test_a_codec_that_does_not_suit_is_refused_by_key(
    files: Files, tmp_path: Path, adapted: AdaptedModel, changes: dict[str, Any], message: str
) -> None:
    config = tiny_config(files, tmp_path, {"strategy.name": NAME, **changes})
    with pytest.raises(ConfigError, match=message):
        planned(config, adapted, 6)


@pytest.mark.parametrize("form", ["global", "per-tensor"])
def test_every_form_that_suits_is_used(make: Make, form: str) -> None:
    strategy, grid = make({"strategy.name": NAME, "codec.form": form})
    codec = strategy.prepare(grid)
    assert isinstance(codec, LinearCodec)
    assert codec.size == 64
