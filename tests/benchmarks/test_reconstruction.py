import pytest
import torch
from torch import Tensor

from benchmarks.reconstruction import Captured, Measured, captured, measure, share_of_a, stage_one_cost, table
from common.adapter import Layout
from common.codecs import IdentityCodec, LinearCodec
from common.config import RunConfig
from server_app.launcher import read_preset
from tests.false_alarms import beyond, statistical
from tests.tiny import vectors

LAYOUT = Layout.of({"q.lora_A": (8, 64), "q.lora_B": (64, 8)})
SIZE = 256
TINY = {
    "lora.rank": 2,
    "lora.alpha": 4.0,
    "lora.target-modules": "q_proj,v_proj",
    "codec.size": SIZE,
    "codec.depth": 2,
    "prior.steps": 1,
}


@pytest.fixture
def gradients() -> Tensor:
    return vectors(200, LAYOUT.size, 0)


@pytest.fixture(scope="module")
def measured() -> Measured:
    config = RunConfig.parse(read_preset("demo") | TINY)
    return measure(config, clients=12, rounds=2)


def test_the_identity_captures_everything(gradients: Tensor) -> None:
    assert captured(IdentityCodec(LAYOUT), gradients) == pytest.approx((1, 1))


@statistical(beyond(0.03 / 0.0054), "seeded")
def test_a_random_subspace_captures_k_over_n(gradients: Tensor) -> None:
    found = captured(LinearCodec.of_form(LAYOUT, SIZE, 3), gradients)
    assert found.energy == pytest.approx(SIZE / LAYOUT.size, rel=0.03), "200 gradients: standard error .54 %"
    assert found.best_scale == pytest.approx(found.energy, rel=1e-4), "a projection has the best scale already"


def test_zeroed_codes_of_a_linear_codec_capture_nothing(gradients: Tensor) -> None:
    codec = LinearCodec.of_form(LAYOUT, SIZE, 3)
    assert captured(codec, gradients, zeroed=True) == (0, 0)


def test_only_the_best_scale_forgives_a_wrong_one(gradients: Tensor) -> None:
    class Tripled(IdentityCodec):
        def decode(self, code: Tensor) -> Tensor:
            return 3 * code

    assert captured(Tripled(LAYOUT), gradients) == pytest.approx((-3, 1))


def test_the_share_of_a_is_one_of_energies() -> None:
    ones = torch.ones(1, LAYOUT.size)
    ones[:, : LAYOUT.tensors[0].end] = 2
    assert share_of_a(LAYOUT, ones) == pytest.approx(0.8)


def test_at_the_start_all_energy_is_in_b_and_later_it_is_not(measured: Measured) -> None:
    assert measured.share_of_a["real, start"] == 0
    assert 0 < measured.share_of_a["real, round 2"] < 1


def test_the_embedded_model_gives_what_theory_says(measured: Measured) -> None:
    size, identity = measured.codecs["identity"]
    assert all(identity[column] == pytest.approx((1, 1)) for column in measured.share_of_a)
    ratio = SIZE / size
    _, uniform = measured.codecs["linear, global"]
    assert [uniform[column].energy for column in ("synthetic", "real, start", "real, round 2")] == pytest.approx(
        [ratio] * 3, rel=0.35
    )
    _, best = measured.codecs["linear, optimum"]
    assert best["synthetic"].energy > 1.5 * uniform["synthetic"].energy
    assert best["codes zeroed: synthetic"] == (0, 0)


def test_a_private_stage_one_raises_the_noise_of_stage_two_a_little() -> None:
    without, with_it = stage_one_cost(RunConfig.parse(read_preset("demo")), 33)
    assert 1 < with_it / without < 1.01


def test_the_table_has_a_line_for_every_codec() -> None:
    seeds = [Measured({"linear": (4, {"synthetic": Captured(energy, 0.5)})}, {}) for energy in (0.1, 0.3)]
    assert table(seeds, "energy", 16).splitlines()[2] == "| linear | 0.2500 | 0.2000 ± 0.1414 |"
