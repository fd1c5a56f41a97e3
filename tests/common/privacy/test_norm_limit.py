"""The norm test on replies: what it lets pass, what it refuses, and how often it is wrong."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import logsumexp

from common.privacy.mechanism import FALSE_ALARM, ReleaseTerms, Trust, check_release, release
from common.privacy.noise import RandomSource, discrete_gaussian
from common.privacy.norms import noisy_norm_limit
from tests.support.false_alarms import statistical

TRUSTS: tuple[Trust, ...] = ("central", "distributed", "local")


def log_tail(std: float, bound: int, probability: float) -> float:
    """ln P(|bound + X| > limit) of one value, summed over the exact law of the discrete Gaussian."""
    limit = noisy_norm_limit(1, bound, std, probability)
    x = np.arange(-math.ceil(60 * std + 60), math.ceil(60 * std + 60) + 1)
    weights = -((x / std) ** 2) / 2
    return float(logsumexp(weights[np.abs(bound + x) > limit]) - logsumexp(weights))


@pytest.mark.parametrize("probability", [0.1, 1e-6, FALSE_ALARM])
@pytest.mark.parametrize("std", [0.3, 0.9, 4.0, 300.0])
@pytest.mark.parametrize("clips", [0.0, 0.5, 8.0])
def test_one_value_leaves_the_limit_no_more_often_than_it_says(clips: float, std: float, probability: float) -> None:
    """Exactly, for coarse noise too, where the discrete law is far from the continuous one."""
    assert log_tail(std, round(clips * std), probability) <= math.log(probability)


@pytest.mark.parametrize("size", [2, 256, 3072, 10**6])
def test_many_values_leave_the_limit_no_more_often_and_the_limit_is_no_larger_than_needed(size: int) -> None:
    """Against the exact χ² law of the zero code: at 2^-96 the quantile lies within 12 % below the limit."""
    limit = noisy_norm_limit(size, 0.0, 1.0, FALSE_ALARM)
    assert stats.chi2.logsf(limit**2, size) <= math.log(FALSE_ALARM)
    assert stats.chi2.logsf((limit / 1.12) ** 2, size) > math.log(FALSE_ALARM)


@statistical(36 * 40 * FALSE_ALARM, "seeded")
def test_an_honest_reply_at_the_clip_norm_is_never_refused() -> None:
    source, checked = RandomSource.insecure(11), 0
    for trust, size, z in product(TRUSTS, (1, 3, 256, 3072), (0.05, 1.64, 20.0)):
        one = ReleaseTerms(size, 0.7, z, trust, 25, normalize=True)
        for _ in range(40):
            check_release(release(torch.rand(size) + 0.1, one, source), one)
            checked += 1
    assert checked == 36 * 40


@pytest.mark.parametrize(
    ("size", "z", "shares", "passes", "refused"),
    [(256, 1.64, 25, 6.5, 8.6), (256, 1.0, 3, 10.0, 14.9), (3072, 1.64, 25, 14.0, 21.1)],
)
def test_a_lie_is_refused_from_eight_to_twentyone_clip_norms_on(
    size: int, z: float, shares: int, passes: float, refused: float
) -> None:
    """A lie without noise, spread over all values: far inside the range that each value may have."""
    one = ReleaseTerms(size, 1.0, z, "distributed", shares, normalize=True)
    assert passes * one.resolution < one.largest_norm < refused * one.resolution

    def lie(norms: float) -> np.ndarray:
        return np.full(size, math.ceil(norms * one.resolution / math.sqrt(size)), dtype=one.dtype)

    check_release(lie(passes), one)
    assert lie(refused).max() < one.largest_value / 4
    with pytest.raises(ValueError, match="exceeds what an honest client's ever is"):
        check_release(lie(refused), one)


def test_a_lie_that_adds_honest_noise_is_refused_at_ten_clip_norms_where_the_noise_is_small() -> None:
    one = ReleaseTerms(256, 1.0, 1.64, "distributed", 25, normalize=True)
    noise = discrete_gaussian(256, one.client_std / one.grid_step, RandomSource.insecure(2))
    with pytest.raises(ValueError, match="exceeds"):
        check_release((noise + round(10 * one.resolution / 16)).astype(one.dtype), one)


def test_it_is_a_function_of_one_message_and_its_terms() -> None:
    """Judged among others or alone, before or after: a refusal tells nothing of anybody else."""
    one = ReleaseTerms(64, 1.0, 1.0, "distributed", 9, normalize=True)
    source = RandomSource.insecure(5)
    honest = [release(torch.ones(64), one, source) for _ in range(9)]
    lie = np.full(64, 3 * one.resolution, dtype=one.dtype)
    verdicts = []
    for values in (*honest, lie, *honest, lie):
        try:
            check_release(values, one)
            verdicts.append(True)
        except ValueError:
            verdicts.append(False)
    assert verdicts == ([True] * 9 + [False]) * 2
