"""How many clients an epsilon needs: the formula, and noise multipliers that are known."""

import pytest

from benchmarks import cohort


@pytest.mark.parametrize(("epsilon", "noise"), [(8.0, 0.558), (2.0, 0.998), (0.5, 2.04)])
def test_noise_multipliers_are_the_known_ones(epsilon: float, noise: float) -> None:
    assert cohort.noise_multiplier(epsilon, 0.05, 10_000, 1e-5) == pytest.approx(noise, rel=2e-3)


def test_clients_grow_with_the_root_of_the_code_and_fall_with_the_ratio() -> None:
    assert cohort.needed(1.0, 256, 1.0) == 16
    assert cohort.needed(1.0, 4 * 256, 1.0) == 32
    assert cohort.needed(1.0, 256, 2.0) == 8
