"""Algorithm 1, server side."""

from collections.abc import Callable
from math import sqrt

import pytest
import torch
from torch import Tensor

from common.adapter import Layout
from common.codecs import (
    Codec,
    GradientStatistics,
    IdentityCodec,
    LinearCodec,
    build_encoder,
    conv_code_size,
)
from server_app.priors.synthetic import PriorSettings, SyntheticGradients, reconstruction_quality, train_prior
from server_app.results.tracking import Step, reporting
from tests.support.false_alarms import beyond, statistical

LAYOUT = Layout.of({"0.a": (4, 16), "0.b": (16, 4), "1.a": (4, 24), "1.b": (24, 4), "odd": (36,)})
STATISTICS = GradientStatistics(
    mean=torch.tensor([0.0, 0.5, -0.25, 0.125, 1.0]) * 1e-3,
    std=torch.tensor([1.0, 2.0, 0.5, 4.0, 1.0]) * 1e-2,
)
EQUAL = GradientStatistics(mean=torch.zeros(5), std=torch.full((5,), 1e-3))
ZERO = GradientStatistics(mean=torch.zeros(5), std=torch.zeros(5))
N = LAYOUT.size


@statistical(beyond(5, 10), "seeded")
def test_synthetic_gradients_follow_the_statistics_tensor_by_tensor() -> None:
    """Mean and deviation of each tensor within 5 standard errors of 500 draws: alarm 6e-6."""
    samples = SyntheticGradients(LAYOUT, STATISTICS.mean, STATISTICS.std, seed=1).sample(500)
    assert samples.shape == (500, N)
    for piece, mean, std in zip(LAYOUT.tensors, STATISTICS.mean, STATISTICS.std, strict=True):
        values = samples[:, piece.offset : piece.end].flatten()
        assert abs(values.mean() - mean) < 5 * std / sqrt(len(values))
        assert abs(values.std() / std - 1) < 5 / sqrt(2 * len(values))


def test_synthetic_gradients_are_new_in_every_call_and_the_same_for_a_seed() -> None:
    one, two = (SyntheticGradients(LAYOUT, STATISTICS.mean, STATISTICS.std, seed=1) for _ in range(2))
    first = one.sample(3)
    assert torch.equal(two.sample(3), first)
    assert not torch.equal(one.sample(3), first)
    other = SyntheticGradients(LAYOUT, STATISTICS.mean, STATISTICS.std, seed=2)
    assert not torch.equal(other.sample(3), first)


def test_whoever_watches_is_told_how_far_a_training_is() -> None:
    """A network for some hundred thousand values trains for minutes."""
    told: list[Step] = []
    with reporting(told.append):
        train_prior(LAYOUT, STATISTICS, PriorSettings("linear", "trained", size=8, steps=3))
    assert [(step.what, step.done, step.total) for step in told] == [
        ("training the AutoEncoder", done, 3) for done in (1, 2, 3)
    ]


def test_seeded_forms_are_derived_without_training() -> None:
    settings = PriorSettings("linear", "optimum", size=20, seed=4)
    codec, report = train_prior(LAYOUT, STATISTICS, settings)
    expected = LinearCodec.of_form(LAYOUT, 20, 4, form="optimum", statistics=STATISTICS)
    x = torch.randn(N)
    assert torch.equal(codec.encode(x), expected.encode(x))
    assert report.losses == ()
    assert report.encoder_bytes == codec.spec().nbytes == 3 * 8 + 5 * 4


def test_identity_loses_nothing() -> None:
    codec, report = train_prior(LAYOUT, STATISTICS, PriorSettings("identity"))
    assert codec.size == N
    assert report.quality == pytest.approx({"captured_energy": 1.0, "cosine": 1.0})


@statistical(beyond(5), "seeded")
def test_reported_quality_of_a_random_subspace_is_k_over_n() -> None:
    """64 samples of captured energy k/n with relative deviation √(2/k): 5 standard errors, alarm 6e-7."""
    _, report = train_prior(LAYOUT, EQUAL, PriorSettings("linear", size=32))
    assert abs(report.quality["captured_energy"] * N / 32 - 1) < 5 * sqrt(2 / 32 / 64)
    assert report.quality["cosine"] == pytest.approx(sqrt(32 / N), rel=0.1)


def test_training_the_linear_autoencoder_beats_a_random_subspace_but_not_the_optimum() -> None:
    settings = PriorSettings("linear", "trained", size=16, steps=250, batch_size=32, learning_rate=3e-3)
    codec, report = train_prior(LAYOUT, STATISTICS, settings)
    share = 16 * 16.0 / (64 * 1 + 64 * 4 + 96 * 0.25 + 96 * 16 + 36 * 1)
    assert codec.size == 16
    assert len(report.losses) == 250
    assert sum(report.losses[-20:]) / 20 < sum(report.losses[:5]) / 5 - 0.03
    assert 1.3 * 16 / N < report.quality["captured_energy"] < share


def test_training_the_convolutional_autoencoder_reduces_the_loss() -> None:
    settings = PriorSettings("conv", depth=2, steps=120, learning_rate=5e-3, batch_size=16)
    codec, report = train_prior(LAYOUT, STATISTICS, settings)
    assert codec.size == conv_code_size(N, 2)
    assert sum(report.losses[-10:]) < 0.6 * sum(report.losses[:10])
    assert report.encoder_bytes == codec.spec().nbytes
    assert report.quality["captured_energy"] > 0


TRAINED = {
    "dense": PriorSettings("linear", "trained", size=8, steps=3),
    "conv": PriorSettings("conv", depth=2, steps=3),
}


@pytest.mark.parametrize("settings", TRAINED.values(), ids=TRAINED.keys())
def test_training_is_reproducible_and_leaves_the_global_generator_alone(settings: PriorSettings) -> None:
    before = torch.random.get_rng_state()
    codecs = [train_prior(LAYOUT, STATISTICS, settings)[0] for _ in range(2)]
    x = torch.randn(N, generator=torch.Generator().manual_seed(0)) * 1e-2
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(codecs[0].decode(codecs[0].encode(x)), codecs[1].decode(codecs[1].encode(x)))


@pytest.mark.parametrize("settings", TRAINED.values(), ids=TRAINED.keys())
def test_only_the_encoder_travels(settings: PriorSettings) -> None:
    codec, _ = train_prior(LAYOUT, STATISTICS, settings)
    spec = codec.spec()
    assert all(name.startswith("encoder.") for name in spec.arrays)
    assert not any(array.requires_grad for array in spec.arrays.values())
    x = torch.randn(N) * 1e-2
    assert torch.equal(build_encoder(spec, LAYOUT).encode(x), codec.encode(x))


@pytest.mark.parametrize("settings", TRAINED.values(), ids=TRAINED.keys())
def test_the_scale_of_gradients_does_not_matter_to_training(settings: PriorSettings) -> None:
    """Statistics a million times larger: the same relative loss curve."""
    bigger = GradientStatistics(STATISTICS.mean * 2**20, STATISTICS.std * 2**20)
    curves = [train_prior(LAYOUT, statistics, settings)[1].losses for statistics in (STATISTICS, bigger)]
    assert curves[0] == pytest.approx(curves[1], rel=1e-5)


class Halving(IdentityCodec):
    def decode(self, code: Tensor) -> Tensor:
        return code / 2


class Forgetting(IdentityCodec):
    def decode(self, code: Tensor) -> Tensor:
        return torch.zeros_like(code)


@pytest.mark.parametrize(("codec", "energy", "cosine"), [(Halving(LAYOUT), 0.75, 1.0), (Forgetting(LAYOUT), 0.0, 0.0)])
def test_quality_of_known_codecs(codec: Codec, energy: float, cosine: float) -> None:
    gradients = torch.randn(5, N)
    gradients[2] = 0
    expected = {"captured_energy": energy, "cosine": cosine}
    assert reconstruction_quality(codec, gradients) == pytest.approx(expected, abs=1e-6)
    assert reconstruction_quality(codec, gradients * 1e-12) == pytest.approx(expected, abs=1e-6)


def train(**changes: object) -> object:
    return train_prior(LAYOUT, STATISTICS, PriorSettings(**{"kind": "linear", "size": 8, **changes}))


FORM_ERROR = "codec.form = 'best' is unknown; allowed: global, per-tensor, variance-proportional, optimum, trained"
BAD: dict[str, Callable[[], object]] = {
    r"codec.kind = 'zip' is unknown; allowed: identity, linear, conv": lambda: train(kind="zip"),
    FORM_ERROR: lambda: train(form="best"),
    r"codec.size = 0 is out of range; allowed: 1 to 356": lambda: train(size=0),
    r"codec.size = 357 is out of range; allowed: 1 to 356": lambda: train(size=357),
    r"codec.size = 358 is out of range; allowed: 1 to 356": lambda: train(form="trained", size=358),
    r"codec.size = 4 is too small for codec.form = 'per-tensor'": lambda: train(form="per-tensor", size=4),
    r"codec.size = 8 with codec.kind = 'identity'; allowed: 356": lambda: train(kind="identity"),
    r"codec.size = 8 with codec.kind = 'conv'; allowed: \d+, or 0": lambda: train(kind="conv", depth=2),
    r"depth = 6 does not suit 356 values; allowed: 1 to 4": lambda: train(kind="conv", size=0),
    r"steps = 0": lambda: train(steps=0),
    r"batch_size = 1": lambda: train(batch_size=1),
    r"learning_rate = nan": lambda: train(learning_rate=float("nan")),
    r"statistics of 1 tensors, but the adapter has 5": lambda: train_prior(
        LAYOUT, GradientStatistics(torch.zeros(1), torch.ones(1)), PriorSettings("identity")
    ),
    r"^statistics are zero everywhere": lambda: train_prior(LAYOUT, ZERO, PriorSettings("linear", "trained", size=8)),
    r"statistics are zero everywhere": lambda: train_prior(LAYOUT, ZERO, PriorSettings("conv", depth=2)),
    r"gradients have shape \(356,\), expected \(m, 356\)": lambda: reconstruction_quality(
        IdentityCodec(LAYOUT), torch.ones(N)
    ),
    r"no gradient differs from zero": lambda: reconstruction_quality(IdentityCodec(LAYOUT), torch.zeros(2, N)),
}


@pytest.mark.parametrize(("message", "call"), BAD.items(), ids=range(len(BAD)))
def test_bad_input_is_refused_naming_key_value_and_what_is_allowed(message: str, call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=message):
        call()
