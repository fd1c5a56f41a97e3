import numpy as np
import pytest
from scipy import stats

from common.privacy.sampling import (
    cohort_slack,
    default_minimum,
    key_from_seed,
    new_sampling_key,
    poisson_sample,
)

KEY = key_from_seed(4)


def test_clients_are_selected_independently_at_the_rate() -> None:
    """Selection counts per round against Bin(200, .05), mean and variance at 4 σ; false alarms 2·6e-5."""
    sizes = np.array([len(poisson_sample(range(200), 0.05, KEY, index)) for index in range(3000)])
    assert abs(sizes.mean() - 10) < 4 * np.sqrt(9.5 / 3000)
    assert abs(sizes.var() / 9.5 - 1) < 4 * np.sqrt(2 / 3000) * 1.05
    chosen = np.zeros((400, 2), dtype=int)
    for index in range(400):
        cohort = poisson_sample([1, 2], 0.5, KEY, index)
        chosen[index] = [1 in cohort, 2 in cohort]
    both = int((chosen.sum(axis=1) == 2).sum())
    assert stats.binomtest(both, 400, 0.25).pvalue > 1e-4


def test_a_resumed_run_redraws_the_same_cohort_and_nobody_else_can() -> None:
    ids = list(range(-20, 20))
    first = poisson_sample(ids, 0.5, KEY, 3)
    assert first == poisson_sample(ids, 0.5, KEY, 3)
    assert first != poisson_sample(ids, 0.5, KEY, 4)
    assert first != poisson_sample(ids, 0.5, key_from_seed(5), 3)
    assert set(first) == set(poisson_sample(ids[::-1], 0.5, KEY, 3))
    assert poisson_sample(ids[:7], 0.5, KEY, 3) == [i for i in first if i in ids[:7]]


def test_rates_zero_and_one_are_exact_and_large_ids_work() -> None:
    ids = [2**63, -(2**63), 2**64 - 1]
    assert poisson_sample(ids, 1.0, KEY, 0) == ids
    assert poisson_sample(ids, 0.0, KEY, 0) == []


@pytest.mark.parametrize(("ids", "rate", "key"), [([1, 1], 0.5, KEY), ([1], 1.5, KEY), ([1], 0.5, b"short")])
def test_bad_requests_are_refused(ids: list[int], rate: float, key: bytes) -> None:
    with pytest.raises(ValueError, match=r"distinct|rate|key"):
        poisson_sample(ids, rate, key, 0)


def test_keys_from_the_system_differ() -> None:
    assert new_sampling_key() != new_sampling_key()
    assert len(new_sampling_key()) == 32


def test_slack_is_the_mass_of_the_boundary_event() -> None:
    for clients, rate, minimum, rounds in [(100, 0.1, 5, 50), (1000, 0.05, 20, 100), (10, 0.5, 10, 1)]:
        wanted = rounds * rate * stats.binom.pmf(minimum - 1, clients - 1, rate)
        assert wanted <= cohort_slack(clients, rate, minimum, rounds) <= wanted * (1 + 1e-5)
    assert cohort_slack(100, 0.1, 0, 50) == 0
    assert cohort_slack(100, 1.0, 50, 50) == 0


def test_slack_covers_the_exact_two_world_difference() -> None:
    """δ at ε = 0 of the bare decision, client present or absent, is the boundary mass: the bound is tight."""
    clients, rate, minimum = 30, 0.2, 4
    absent = stats.binom.cdf(minimum - 1, clients - 1, rate)
    present = (1 - rate) * stats.binom.cdf(minimum - 1, clients - 1, rate) + rate * stats.binom.cdf(
        minimum - 2, clients - 1, rate
    )
    assert absent - present == pytest.approx(cohort_slack(clients, rate, minimum, 1), rel=1e-5)


@pytest.mark.parametrize(
    ("clients", "rate", "rounds"), [(1000, 0.05, 100), (300, 0.1, 50), (20, 0.1, 10), (50, 1.0, 5)]
)
def test_the_default_minimum_is_the_largest_that_costs_a_thousandth_of_delta(
    clients: int, rate: float, rounds: int
) -> None:
    delta = 1 / (10 * clients)
    minimum = default_minimum(clients, rate, rounds, delta)
    assert cohort_slack(clients, rate, minimum, rounds) <= 1e-3 * delta
    if minimum < int(rate * clients / 2):
        assert cohort_slack(clients, rate, minimum + 1, rounds) > 1e-3 * delta
