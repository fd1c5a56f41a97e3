"""An ε far above what may be claimed is told as ∞ at once, and only then."""

import math
import time

import pytest

from common.privacy.accounting import Charge, RunningAccountant, calibrate, cross_check, epsilon
from common.privacy.untold import UNTOLD_EPSILON, is_untold

BEYOND = [(0.01, 0.1, 25), (0.05, 0.001, 10), (0.1, 0.1, 100_000), (0.1, 0.1, 5), (1.0, 0.5, 10_000), (0.02, 1e-6, 3)]
WITHIN = [(1.0, 0.1, 25), (0.8, 0.1, 10), (2.0, 0.01, 1_000), (0.5, 1e-6, 3), (0.01, 1.0, 5)]


@pytest.mark.parametrize(("multiplier", "rate", "count"), BEYOND)
def test_it_is_infinite_at_once(multiplier: float, rate: float, count: int) -> None:
    began = time.monotonic()
    charge = Charge(multiplier, rate, count)
    assert epsilon([charge], 1e-5) == math.inf
    running = RunningAccountant(1e-5)
    running.charge(charge)
    assert running.epsilon() == running.certify() == math.inf
    assert "epsilon is above" in cross_check([charge], 1e-5)
    assert time.monotonic() - began < 2.0


@pytest.mark.parametrize(("multiplier", "rate", "count"), WITHIN)
def test_what_can_be_told_is_told(multiplier: float, rate: float, count: int) -> None:
    assert not is_untold(multiplier, rate, count, 1e-5)
    assert math.isfinite(epsilon([Charge(multiplier, rate, count)], 1e-5, grid=1e-3))


@pytest.mark.parametrize(("multiplier", "rate", "count"), [(0.1, 0.1, 5), (0.3, 0.5, 60), (0.4, 0.5, 120)])
def test_where_the_tests_say_so_the_distribution_says_so_too(multiplier: float, rate: float, count: int) -> None:
    """With noise that is not refused as such, on a coarse grid that still is within a tenth here."""
    from dp_accounting.pld import privacy_loss_distribution  # noqa: PLC0415 - asked without the shortcut

    assert is_untold(multiplier, rate, count, 1e-5)
    loss = privacy_loss_distribution.from_gaussian_mechanism(
        multiplier, sampling_prob=rate, value_discretization_interval=1e-2
    )
    assert loss.self_compose(count).get_epsilon_for_delta(1e-5) > UNTOLD_EPSILON


def test_a_running_total_of_many_small_charges_ends_too() -> None:
    running = RunningAccountant(1e-5)
    for _ in range(40):
        running.charge(Charge(0.3, 0.5, 1))
    assert running.epsilon() == math.inf


def test_calibration_finds_what_it_found() -> None:
    assert calibrate(20.0, 1e-5, sampling_rate=0.1, rounds=25) == pytest.approx(0.497, abs=0.1)


@pytest.mark.parametrize("multiplier", [1e-2, 1e-4])
def test_unsampled_rounds_of_next_to_no_noise_are_told_at_once(multiplier: float) -> None:
    """The running total made a distribution of them: of gigabytes, and then of more than there is."""
    began = time.monotonic()
    running = RunningAccountant(1e-5)
    running.charge(Charge(multiplier, 1.0))
    assert running.epsilon() == pytest.approx(running.certify(), rel=1e-9)
    running.charge(Charge(1.0, 0.1))
    mixed = [Charge(multiplier, 1.0), Charge(1.0, 0.1)]
    assert running.epsilon() == running.certify() == epsilon(mixed, 1e-5) == math.inf
    assert time.monotonic() - began < 2.0
