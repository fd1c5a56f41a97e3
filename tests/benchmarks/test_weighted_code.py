"""Tensor weights from stage 1's statistics: what they are, and that client and server mean the same by them."""

from pathlib import Path

import pytest
import torch

from benchmarks.weighted_code import WeightedCode, WeightedCodec, tensor_weights
from client_app.app import app as client_app
from common.adapter import Layout
from common.codecs.base import Codec, build_encoder, codec_from_state
from common.codecs.identity import IdentityCodec
from common.codecs.linear import LinearCodec
from common.codecs.statistics import GradientStatistics
from common.model.adapted import AdaptedModel
from server_app.rounds.state import pack_adapter
from server_app.strategies import STRATEGIES
from tests.support.tiny import CLIENTS, Files, tiny_config, tiny_strategy
from workbench.simulation.in_process import InProcessGrid

LAYOUT = Layout.of({"a": torch.Size((4, 8)), "b": torch.Size((16, 4)), "c": torch.Size((2, 2))})
STATISTICS = GradientStatistics(torch.tensor([0.0, 3.0, 0.0]), torch.tensor([1.0, 4.0, 0.0]))


def vector(size: int, seed: int) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def test_weights_are_a_power_of_the_energy_of_a_value_and_keep_the_mean_square() -> None:
    weights = tensor_weights(LAYOUT, STATISTICS, 0.5)
    assert weights[1] / weights[0] == pytest.approx(25**0.25)
    assert weights[2] == weights[0]  # nothing is known of it: as little as the least
    assert LAYOUT.expand(weights).square().mean() == pytest.approx(1.0)
    assert torch.allclose(tensor_weights(LAYOUT, STATISTICS, 0.0), torch.ones(3))
    with pytest.raises(ValueError, match="zero everywhere"):
        tensor_weights(LAYOUT, GradientStatistics(torch.zeros(3), torch.zeros(3)), 0.5)


@pytest.mark.parametrize("inner", [LinearCodec.of_form(LAYOUT, 8, 3), IdentityCodec(LAYOUT)])
def test_the_decoder_is_the_transpose_and_both_halves_travel(inner: Codec) -> None:
    codec = WeightedCodec(inner, LAYOUT, tensor_weights(LAYOUT, STATISTICS, 0.5)).redraw(2)
    gradient, code = vector(LAYOUT.size, 1), vector(codec.size, 2)
    assert torch.dot(codec.encode(gradient), code) == pytest.approx(float(torch.dot(gradient, codec.decode(code))))
    assert torch.equal(build_encoder(codec.spec(), LAYOUT).encode(gradient), codec.encode(gradient))
    again = codec_from_state(codec.state(), LAYOUT)
    assert torch.equal(again.decode(code), codec.decode(code))
    assert not torch.allclose(codec.encode(gradient), inner.redraw(2).encode(gradient))


def test_a_run_weighs_by_what_stage_one_has_told(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapted: AdaptedModel
) -> None:
    monkeypatch.setitem(STRATEGIES, "weighted-code", WeightedCode)
    keys = {"strategy.name": "weighted-code", "stage-one.private": False, "server.learning-rate": 1.0}
    config = tiny_config(files, tmp_path, keys)
    strategy = tiny_strategy(config, adapted, tmp_path)
    grid = InProcessGrid(client_app, config.flat(), CLIENTS)
    strategy.start(grid, pack_adapter(strategy.state.optimizer.adapter), num_rounds=2, timeout=60.0)
    codec = strategy.codec
    assert isinstance(codec, WeightedCodec)
    assert codec.weights.std() > 0.1
    assert [summary.replies for summary in strategy.rounds] == [CLIENTS] * 2  # type: ignore[attr-defined]
    assert not torch.equal(strategy.state.optimizer.adapter, adapted.initial)
