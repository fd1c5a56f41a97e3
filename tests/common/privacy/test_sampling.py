from fractions import Fraction
from math import comb

import numpy as np
import pytest
from scipy import stats

from common import seeds
from common.privacy.noise import RandomSource
from server_app.privacy.sampling import binomial_limit, poisson_sample
from tests.support.false_alarms import beyond, statistical

SEED = 4


def seeded_coins(seed: int, draw: int) -> RandomSource:
    return RandomSource.insecure(seeds.insecure_cohort(seed, draw))


@statistical(beyond(5, 2) + 1e-5, "seeded")
def test_clients_are_selected_independently_at_the_rate() -> None:
    """Counts per round against Bin(200, .05), mean and variance at 5 σ, and pairs exactly; false alarms 1.1e-5."""
    sizes = np.array([len(poisson_sample(range(200), 0.05, seeded_coins(SEED, index))) for index in range(3000)])
    assert abs(sizes.mean() - 10) < 5 * np.sqrt(9.5 / 3000)
    assert abs(sizes.var() / 9.5 - 1) < 5 * np.sqrt(2 / 3000) * 1.02  # the excess kurtosis is .075
    chosen = np.zeros((400, 2), dtype=int)
    for index in range(400):
        cohort = poisson_sample([1, 2], 0.5, seeded_coins(SEED, index))
        chosen[index] = [1 in cohort, 2 in cohort]
    both = int((chosen.sum(axis=1) == 2).sum())
    assert stats.binomtest(both, 400, 0.25).pvalue > 1e-5


def test_a_seeded_draw_repeats_by_its_number() -> None:
    ids = list(range(-20, 20))
    first = poisson_sample(ids, 0.5, seeded_coins(SEED, 3))
    assert first == poisson_sample(ids, 0.5, seeded_coins(SEED, 3))
    assert first != poisson_sample(ids, 0.5, seeded_coins(SEED, 4))
    assert first != poisson_sample(ids, 0.5, seeded_coins(SEED + 1, 3))


def test_a_client_is_selected_by_its_own_coin_alone() -> None:
    ids = list(range(-20, 20))
    first = poisson_sample(ids, 0.5, seeded_coins(SEED, 3))
    assert poisson_sample(ids[:7], 0.5, seeded_coins(SEED, 3)) == [i for i in first if i in ids[:7]]
    words = RandomSource(lambda count: np.arange(count, dtype=np.uint64) * np.uint64(2**61), secure=False)
    assert poisson_sample(range(8), 0.5, words) == [0, 1, 2, 3]


@statistical(2.0**-200, "system")
def test_a_draw_from_the_system_never_repeats() -> None:
    ids = range(200)
    assert poisson_sample(ids, 0.5, RandomSource.system()) != poisson_sample(ids, 0.5, RandomSource.system())


def test_rates_zero_and_one_are_exact_and_large_ids_work() -> None:
    ids = [2**63, -(2**63), 2**64 - 1]
    assert poisson_sample(ids, 1.0, seeded_coins(SEED, 0)) == ids
    assert poisson_sample(ids, 0.0, seeded_coins(SEED, 0)) == []


@pytest.mark.parametrize(("ids", "rate"), [([1, 1], 0.5), ([1], 1.5)])
def test_bad_requests_are_refused(ids: list[int], rate: float) -> None:
    with pytest.raises(ValueError, match=r"distinct|rate"):
        poisson_sample(ids, rate, seeded_coins(SEED, 0))


def exact_tail(trials: int, rate: float, limit: int) -> Fraction:
    """P(Bin(trials, rate) > limit) in rational arithmetic."""
    p = Fraction(rate).limit_denominator(10**6)
    return sum((comb(trials, k) * p**k * (1 - p) ** (trials - k) for k in range(limit + 1, trials + 1)), Fraction(0))


@pytest.mark.parametrize("delta", [1e-9, 1e-5, 0.01, 0.5])
@pytest.mark.parametrize(
    ("trials", "rate", "repeats"), [(6, 0.5, 3), (20, 0.1, 10), (60, 0.3, 50), (50, 0.9, 7), (6, 1e-6, 1), (1, 0.5, 1)]
)
def test_the_limit_is_the_smallest_that_a_draw_hardly_ever_exceeds(
    trials: int, rate: float, repeats: int, delta: float
) -> None:
    limit = binomial_limit(trials, rate, repeats, delta)
    assert 0 <= limit <= trials
    assert repeats * exact_tail(trials, rate, limit) <= delta
    assert limit == 0 or repeats * exact_tail(trials, rate, limit - 1) > delta


@pytest.mark.parametrize(("trials", "rate", "repeats"), [(1000, 0.05, 100), (10**6, 1e-3, 1000)])
def test_the_limit_of_many_clients_has_the_tail_that_scipy_gives(trials: int, rate: float, repeats: int) -> None:
    limit = binomial_limit(trials, rate, repeats, 1e-8)
    assert trials * rate < limit < 2.5 * trials * rate
    assert repeats * stats.binom.sf(limit, trials, rate) <= 1e-8 < repeats * stats.binom.sf(limit - 1, trials, rate)


def test_the_limit_is_exact_where_nothing_is_random() -> None:
    assert binomial_limit(7, 1.0, 5, 1e-6) == 7
    assert [binomial_limit(*case, 1e-6) for case in ((7, 0.0, 5), (7, 0.5, 0), (0, 0.5, 3))] == [0, 0, 0]


@pytest.mark.parametrize("case", [(-1, 0.5, 1, 0.1), (1, 1.5, 1, 0.1), (1, 0.5, -1, 0.1), (1, 0.5, 1, 0.0)])
def test_impossible_limits_are_refused(case: tuple[int, float, int, float]) -> None:
    with pytest.raises(ValueError, match=r"rate|need trials"):
        binomial_limit(*case)
