"""The noise of a client's releases, by terms and seed, and for what is not finite."""

import math
from collections.abc import Callable

import pytest
import torch

from client_app import app as client_module
from common.codecs import Codec, IdentityCodec, LinearCodec
from common.config import RunConfig
from common.model.adapted import AdaptedModel
from common.privacy.mechanism import ReleaseTerms, Trust
from common.scale_code import ScaleCode
from common.wire.records import STATISTICS
from tests.support.false_alarms import beyond, correlation_beyond, count_outside, rms_outside, statistical
from tests.support.instructions import answer, ask, refusal, terms
from workbench.simulation.in_process import InProcessGrid

TRUSTS: list[Trust] = ["distributed", "local"]


@pytest.mark.parametrize("trust", TRUSTS)
@statistical(rms_outside(0.99, 1.01, 33 * 3072) + correlation_beyond(0.11, 3072, 33 * 32 // 2), "system")
def test_the_noise_of_a_release_has_the_std_that_the_terms_promise(
    grid: InProcessGrid, adapted: AdaptedModel, trust: Trust
) -> None:
    """33 releases of 3,072 values: a false alarm in 7e-6 by chi squared; a std off by 2 % is missed in 4e-6."""
    codec = IdentityCodec(adapted.layout)
    clear, agreed = (terms(codec.size, noise, trust, clip_norm=0.5, shares=9) for noise in (0.0, 1.4))
    truth = answer(ask(grid, adapted.initial, codec, clear), clear)
    noise = torch.stack([answer(ask(grid, adapted.initial, codec, agreed), agreed) for _ in range(33)]) - truth
    promised = {"distributed": 1.4 * 0.5 / 3, "local": 1.4 * 0.5}[trust]
    assert agreed.client_std == pytest.approx(promised)
    assert 0.99 < noise.square().mean().sqrt() / promised < 1.01
    assert len(noise.unique(dim=0)) == 33
    # 6 standard errors, 528 pairs; taking out the mean of each coordinate would itself correlate the rows by -1/32
    assert torch.corrcoef(noise).fill_diagonal_(0).abs().max() < 0.11


def test_in_central_the_release_carries_no_noise_but_the_grids(grid: InProcessGrid, adapted: AdaptedModel) -> None:
    codec = IdentityCodec(adapted.layout)
    clear, agreed = (terms(codec.size, noise, "central", clip_norm=0.5) for noise in (0.0, 1.4))
    truth = answer(ask(grid, adapted.initial, codec, clear), clear)
    difference = answer(ask(grid, adapted.initial, codec, agreed), agreed) - truth
    assert 0 < difference.abs().max() < 1.5 * agreed.grid_step
    assert agreed.client_std == 0.0


@statistical(correlation_beyond(0.11, 3072) + count_outside(0, 30, 3072, 2e-4), "system")
def test_noise_never_repeats(grid: InProcessGrid, adapted: AdaptedModel) -> None:
    """The same question twice: the same gradient, other noise."""
    codec = IdentityCodec(adapted.layout)
    agreed = terms(codec.size, 5.0)
    one, two = (answer(ask(grid, adapted.initial, codec, agreed), agreed) for _ in range(2))
    assert (one == two).double().mean() < 0.01
    assert torch.corrcoef(torch.stack([one, two]))[0, 1].abs() < 0.11


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("make", [IdentityCodec, lambda layout: LinearCodec.of_form(layout, 64, 1)])
@statistical(rms_outside(0.6, 1.5, 64), "system")
def test_a_gradient_that_is_not_finite_gives_an_ordinary_looking_release(
    grid: InProcessGrid,
    adapted: AdaptedModel,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[..., Codec],
    value: float,
) -> None:
    """What comes is noise around zero of the promised std: 64 values at least, a false alarm in 6e-7."""
    codec = make(adapted.layout)
    agreed = terms(codec.size, 2.0)
    broken = torch.full((adapted.layout.size,), value)
    monkeypatch.setattr(client_module, "local_update", lambda *_: broken)
    released = answer(ask(grid, adapted.initial, codec, agreed), agreed)
    assert 0.6 < released.square().mean().sqrt() / 2.0 < 1.5
    assert len(released.unique()) > 0.5 * codec.size


@statistical(beyond(5.5, 17), "system")
def test_statistics_that_are_not_finite_give_an_ordinary_looking_release(
    grid: InProcessGrid, config: RunConfig, adapted: AdaptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With hardly any noise the zero code shows: its participation count is 0, not 1."""
    code = ScaleCode.of(adapted.layout, config.stage_one)
    agreed = ReleaseTerms(code.size, code.bound, 1e-3, "local", 1, normalize=False)
    broken = torch.full((adapted.layout.size,), math.nan)
    monkeypatch.setattr(client_module, "gradient_stream", lambda *_: iter([broken, broken]))
    reply = ask(grid, adapted.initial, IdentityCodec(adapted.layout), agreed, STATISTICS, round=0)
    released = answer(reply, agreed, 0)
    assert 0 < released.abs().max() < 6e-3 * code.bound


def test_without_noise_a_gradient_that_is_not_finite_is_an_error(
    grid: InProcessGrid, adapted: AdaptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "local_update", lambda *_: torch.full((adapted.layout.size,), math.nan))
    assert refusal(grid, adapted, terms(64, 0.0)).startswith("NonFiniteError")


@statistical(beyond(8, 18), "system")
def test_private_statistics_are_a_scale_code_clipped_and_noised(
    grid: InProcessGrid, config: RunConfig, adapted: AdaptedModel
) -> None:
    code = ScaleCode.of(adapted.layout, config.stage_one)
    agreed = ReleaseTerms(code.size, code.bound, 1e-3, "local", 1, normalize=False)
    reply = ask(grid, adapted.initial, IdentityCodec(adapted.layout), agreed, STATISTICS, round=0)
    released = answer(reply, agreed, 0)
    assert released.norm() < code.bound * 1.01
    assert released[-1] == pytest.approx(1.0, abs=0.05)
    assert released[:-1].min() > -1.05
