import pytest
import torch
from torch import Tensor

from benchmarks.reconstruction import captured
from benchmarks.statistics_used import Drawn, Statistics, measure, optimum, statistics_of
from common.adapter import Layout
from common.config import RunConfig
from server_app.launcher import read_preset
from tests.benchmarks.test_reconstruction import TINY
from tests.false_alarms import beyond, statistical
from tests.tiny import vectors

LAYOUT = Layout.of({"q.lora_A": (8, 64), "q.lora_B": (64, 8)})


@pytest.fixture
def gradients() -> Tensor:
    """The first tensor ten times as wide as the second, with means and deviations of its own in every column."""
    rows = vectors(2000, LAYOUT.size, 0)
    columns = torch.linspace(1, 20, 64).repeat(8)
    rows[:, :512] *= columns
    rows[:, :512] += columns
    return rows


@statistical(512 * (beyond(0.15 * 4000**0.5) + beyond(0.35 * 2000**0.5)), "seeded")
def test_finer_statistics_say_more_of_the_same_gradients(gradients: Tensor) -> None:
    found = dict(statistics_of(gradients, LAYOUT))
    assert list(found) == [
        "mean",
        "std",
        "mean, std",
        "mean, std, kurtosis",
        "mean, std by row and column",
        "mean, std of every value",
    ]
    columns = torch.linspace(1, 20, 64).repeat(8)
    assert len(found["mean, std"].std[:512].unique()) == 1
    for name in ("mean, std by row and column", "mean, std of every value"):
        torch.testing.assert_close(found[name].std[:512], columns, rtol=0.15, atol=0)
        torch.testing.assert_close(found[name].mean[:512], columns, rtol=0.35, atol=0)
    assert not found["mean"].std.any()
    assert not found["std"].mean.any()


@statistical(1024 * (beyond(0.1 * 8000**0.5) + beyond(0.15 * 16_000**0.5)), "seeded")
def test_what_is_drawn_has_the_statistics_it_is_drawn_from(gradients: Tensor) -> None:
    wanted = dict(statistics_of(gradients, LAYOUT))["mean, std by row and column"]
    drawn = dict(statistics_of(Drawn(wanted, 3).sample(8000), LAYOUT))["mean, std of every value"]
    torch.testing.assert_close(drawn.mean, wanted.mean, rtol=0.1, atol=0.15)
    torch.testing.assert_close(drawn.std, wanted.std, rtol=0.15, atol=0)


@statistical(3 * beyond(0.08 / (29 / 512_000) ** 0.5), "seeded")
def test_a_kurtosis_fattens_the_tails_and_leaves_the_deviation() -> None:
    ones = torch.ones(LAYOUT.size)
    plain = Drawn(Statistics(0 * ones, ones), 1).sample(500)
    heavy = Drawn(Statistics(0 * ones, ones, 30 * ones), 1).sample(500)
    assert plain.square().mean().item() == pytest.approx(1, rel=0.02)
    assert heavy.square().mean().item() == pytest.approx(1, rel=0.08)
    assert heavy.pow(4).mean().item() > 2 * plain.pow(4).mean().item()


def test_the_optimum_keeps_the_widest_values_and_decodes_zeros_to_the_means() -> None:
    mean, std = torch.full((LAYOUT.size,), 0.5), torch.ones(LAYOUT.size)
    std[100:108] = 10
    codec = optimum(LAYOUT, Statistics(mean, std), 8, 1)
    vector = vectors(1, LAYOUT.size, 5)[0]
    expected = mean.clone()
    expected[100:108] = vector[100:108]
    torch.testing.assert_close(codec.decode(codec.encode(vector)), expected)
    torch.testing.assert_close(codec.decode(torch.zeros(8)), mean)


def test_means_alone_put_nothing_into_the_code() -> None:
    statistics = Statistics(torch.ones(LAYOUT.size), torch.zeros(LAYOUT.size))
    codec = optimum(LAYOUT, statistics, 8, 1)
    rows = vectors(4, LAYOUT.size, 5)
    assert captured(codec, rows) == captured(codec, rows, zeroed=True)


def test_the_embedded_model_gives_a_line_for_both_autoencoders_of_every_set() -> None:
    found = measure(RunConfig.parse(read_preset("demo") | TINY | {"codec.form": "trained"}), clients=6, rounds=1)
    assert len(found.codecs) == 12
    best = found.codecs["mean, std of every value: optimum"][1]
    assert best["synthetic"].energy > best["zeroed: real, start"].energy
    assert best["synthetic"].energy > found.codecs["std: optimum"][1]["synthetic"].energy
