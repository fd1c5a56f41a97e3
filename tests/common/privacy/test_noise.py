"""Statistical tests here run on fixed seeds; each states its false-alarm rate for a fresh one."""

import math
import time

import mpmath
import numpy as np
import pytest
from scipy import stats

from common.privacy import noise
from common.privacy.noise import GridVector, RandomSource, add_noise, discrete_gaussian, quantize
from tests.support.false_alarms import beyond, count_outside, statistical


def exact_pmf(std: float, edge: int) -> np.ndarray:
    weights = [mpmath.exp(-(mpmath.mpf(k) ** 2) / (2 * mpmath.mpf(std) ** 2)) for k in range(-edge, edge + 1)]
    total = mpmath.fsum(weights)
    return np.array([float(weight / total) for weight in weights])


@pytest.mark.parametrize("std", [0.4, 1.0, 7.3, 300.0])
@statistical(1e-5, "seeded")
def test_draws_follow_the_exact_pmf(std: float) -> None:
    """χ² over bins of expectation ≥ 20; false alarms 1e-5 each. 300 goes through the two-table path."""
    size, edge = 200_000, math.ceil(8 * std)
    draws = discrete_gaussian(size, std, RandomSource.insecure(11))
    expected = size * exact_pmf(std, edge)
    counts = np.bincount(np.clip(draws, -edge, edge) + edge, minlength=2 * edge + 1)
    keep = expected >= 20
    observed = np.append(counts[keep], counts[~keep].sum())
    wanted = np.append(expected[keep], size - expected[keep].sum())
    statistic = float(((observed - wanted) ** 2 / wanted).sum())
    assert stats.chi2.sf(statistic, len(wanted) - 1) > 1e-5


@pytest.mark.parametrize("std", [0.7, 3.0, 40.0])
def test_every_table_threshold_is_the_exact_cdf_to_120_bits(std: float) -> None:
    table = noise._table(std)
    with mpmath.workdps(60):
        weights = [mpmath.exp(-(mpmath.mpf(k) ** 2) / (2 * mpmath.mpf(std) ** 2)) for k in range(table.edge + 60)]
        total = 2 * mpmath.fsum(weights) - 1
        tail = mpmath.fsum(weights[table.edge + 1 :]) * 2 / total
        assert tail < mpmath.mpf(2) ** -96
        cumulative = mpmath.mpf(0)
        for index in range(2 * table.edge):
            cumulative += weights[abs(index - table.edge)] / total
            threshold = (int(table.high[index]) << 64) + int(table.low[index])
            assert abs(mpmath.mpf(threshold) / 2**128 - cumulative) < mpmath.mpf(2) ** -95


def test_the_low_word_decides_where_the_high_word_cannot() -> None:
    table = noise._table(3.0)
    place = table.edge
    high, low = int(table.high[place]), int(table.low[place])

    def draw_with(second: int) -> int:
        words = iter([high, second])
        scripted = RandomSource(lambda count: np.array([next(words)], dtype=np.uint64), secure=False)
        return int(table.draw(1, scripted)[0])

    assert draw_with(low - 1) == 0
    assert draw_with(low) == 1


@pytest.mark.parametrize("std", [300.0, 1e4, 3e7])
@statistical(1e-5, "seeded")
def test_two_tables_compose_to_the_asked_variance_without_a_lattice(std: float) -> None:
    factor, coarse, fine = noise._split(std)
    assert factor**2 * coarse**2 + fine**2 == pytest.approx(std**2, rel=1e-14)
    assert coarse * fine / std >= 7
    draws = discrete_gaussian(100_000, std, RandomSource.insecure(5))
    assert abs(draws).max() <= noise.reach(std)
    residues = np.bincount(draws % factor, minlength=factor)
    assert stats.chisquare(residues).pvalue > 1e-5


def test_a_convolved_pmf_agrees_with_the_bound_on_sums() -> None:
    """Sum of 3 discrete Gaussians of std .8 against one of std .8·√3, exactly: within the bound, not trivially."""
    std, edge = 0.8, 40
    with mpmath.workdps(40):
        single = [mpmath.exp(-(mpmath.mpf(k) ** 2) / (2 * mpmath.mpf(std) ** 2)) for k in range(-edge, edge + 1)]
        total = mpmath.fsum(single)
        single = [weight / total for weight in single]
        twice = [
            mpmath.fsum(single[i] * single[n - i] for i in range(max(0, n - 80), min(n, 80) + 1)) for n in range(161)
        ]
        thrice = {
            n: mpmath.fsum(twice[n + 120 - i] * single[i] for i in range(81) if 0 <= n + 120 - i <= 160)
            for n in range(-4, 5)
        }
        wide = mpmath.fsum(mpmath.exp(-(mpmath.mpf(k) ** 2) / (6 * mpmath.mpf(std) ** 2)) for k in range(-60, 61))
        worst = max(
            abs(mpmath.log(thrice[n] * wide / mpmath.exp(-(mpmath.mpf(n) ** 2) / (6 * mpmath.mpf(std) ** 2))))
            for n in thrice
        )
    assert 1e-6 < worst < noise.sum_error(std, 3)


def test_bounds_on_sums_and_smoothing_are_negligible_where_they_are_used() -> None:
    assert noise.sum_error(4.0, 2**20) < 1e-60
    assert noise.smoothing_error(2.0) < 1e-33
    assert noise.sampler_error(300.0) * 2**20 < 2**-50


@pytest.mark.parametrize(("size", "resolution"), [(1, 256), (5, 256), (1024, 256), (20_000, 2048)])
@statistical(beyond(5, 40), "seeded")
def test_rounding_never_leaves_the_sphere(size: int, resolution: int) -> None:
    generator, source = np.random.default_rng(size), RandomSource.insecure(3)
    for _ in range(40):
        vector = generator.standard_normal(size)
        vector *= 1.7 / np.linalg.norm(vector)
        grid = quantize(vector, 1.7, resolution, source)
        assert int((grid.values.astype(object) ** 2).sum()) <= resolution**2
        assert np.linalg.norm(grid.values) > resolution * (1 - 0.012)


def test_when_rounding_up_is_all_one_gets_truncation_keeps_the_norm() -> None:
    always_up = RandomSource(lambda count: np.zeros(count, dtype=np.uint64), secure=False)
    vector = np.full(1024, 1 / 32)
    assert int((quantize(vector, 1.0, 256, always_up).values ** 2).sum()) <= 256**2


VECTOR = np.linspace(-0.05, 0.05, 60)
ROUNDING_ALARM = sum(
    count_outside(4000 * p - margin, 4000 * p + margin, 4000, p)
    for p in VECTOR * 256 % 1
    for margin in [6 * math.sqrt(4000 * p * (1 - p))]
)


@statistical(ROUNDING_ALARM, "seeded")
def test_rounding_is_unbiased() -> None:
    """Mean of 4,000 roundings per coordinate, 60 coordinates, 6 σ; false alarms from the exact binomials."""
    source, vector = RandomSource.insecure(9), VECTOR
    mean = np.mean([quantize(vector, 1.0, 256, source).values for _ in range(4000)], axis=0)
    scaled = vector * 256
    spread = np.sqrt((scaled - np.floor(scaled)) * (1 - scaled + np.floor(scaled)) / 4000)
    assert (np.abs(mean - scaled) <= 6 * spread + 1e-12).all()


def test_what_is_not_clipped_is_neither_quantized_nor_noised() -> None:
    source = RandomSource.insecure(0)
    with pytest.raises(ValueError, match="not clipped"):
        quantize(np.array([0.8, 0.8]), 1.0, 256, source)
    with pytest.raises(ValueError, match="not clipped"):
        quantize(np.array([math.nan]), 1.0, 256, source)
    with pytest.raises(ValueError, match="norm above"):
        GridVector(np.array([200, 200], dtype=np.int64), 256)
    with pytest.raises(ValueError, match="norm above"):
        GridVector(np.array([2**40, 2**40], dtype=np.int64), 256)
    with pytest.raises(AttributeError):
        add_noise(np.zeros(3, dtype=np.int64), 1.0, source)


def test_only_the_operating_system_is_a_secure_source() -> None:
    assert RandomSource.system().secure
    assert not RandomSource.insecure(1).secure
    one, two = RandomSource.insecure(1), RandomSource.insecure(1)
    assert np.array_equal(one.uint64(5), two.uint64(5))
    assert not np.array_equal(RandomSource.system().uint64(5), RandomSource.system().uint64(5))


@pytest.mark.parametrize("std", [-1.0, math.nan, math.inf, 1e10])
def test_an_impossible_std_is_refused(std: float) -> None:
    with pytest.raises(ValueError, match="noise std"):
        discrete_gaussian(3, std, RandomSource.insecure(0))


def test_a_million_values_take_seconds_at_most() -> None:
    """A guard against falling back to a Python loop: .3 s on one idle core, 5 s allowed."""
    source = RandomSource.system()
    discrete_gaussian(1, 1e4, source)
    start = time.perf_counter()
    discrete_gaussian(10**6, 1e4, source)
    assert time.perf_counter() - start < 5
