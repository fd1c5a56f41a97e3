"""Noise that is noise: an integer grid, and discrete Gaussians drawn from the operating system's CSPRNG.

Floating-point Gaussians leak through their low-order bits, and seeded ones can be subtracted again. Here a
clipped vector is rounded stochastically to integers, integer noise is added, and integers leave the client.

*Sensitivity.* Rounding is repeated until the integer vector has a norm of at most ``resolution`` (the clip
norm in grid steps), with truncation toward zero as the last resort, so rounding costs no sensitivity at all.

*Exactness.* Values come from an inverse-CDF table with 128-bit thresholds. Per value, the distance in total
variation to the exact discrete Gaussian is ``sampler_error(std)``, below 2^-94.
"""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, localcontext
from functools import lru_cache
from typing import Self

import numpy as np
from numpy.typing import NDArray

from common.privacy.norms import norm, squared_norm

Integers = NDArray[np.int64]
Words = NDArray[np.uint64]

REACH = 11.6
"""A sampled value never exceeds ``ceil(11.6·std)``: √(2·97·ln 2) = 11.597, so less than 2^-96 is cut off."""

ROUNDING_ATTEMPTS = 16
_SINGLE_TABLE_STD = 256.0
_LARGEST_STD = 1e9
_FRACTION_BITS = 256
_THRESHOLD_BITS = 128


class RandomSource:
    """A stream of uniform 64-bit words. ``secure`` tells whether noise made from it may protect anybody."""

    def __init__(self, draw: Callable[[int], Words], *, secure: bool) -> None:
        self._draw = draw
        self.secure = secure

    @classmethod
    def system(cls) -> Self:
        """Words from the operating system's CSPRNG: the only source whose noise is worth an ε."""
        return cls(lambda count: np.frombuffer(os.urandom(8 * count), dtype=np.uint64), secure=True)

    @classmethod
    def insecure(cls, seed: int) -> Self:
        """Reproducible words for tests: whoever knows ``seed`` can subtract the noise."""
        generator = np.random.Generator(np.random.Philox(seed))
        return cls(lambda count: generator.integers(0, 2**64, size=count, dtype=np.uint64), secure=False)

    def uint64(self, count: int) -> Words:
        """``count`` independent uniform words, shape ``[count]``, dtype uint64."""
        return self._draw(count)


@dataclass(frozen=True)
class GridVector:
    """Integers of shape ``[size]`` (grid steps) with ``Σ values² ≤ resolution²``, checked exactly.

    Noise is only ever added to this type, so noise before the clip is a type error. Raises ``ValueError``
    otherwise.
    """

    values: Integers
    resolution: int

    def __post_init__(self) -> None:
        if self.values.dtype != np.int64 or self.values.ndim != 1:
            raise TypeError(f"grid values must be 1-D int64, not {self.values.ndim}-D {self.values.dtype}")
        if not _within(self.values, self.resolution):
            raise ValueError(f"grid vector has a norm above {self.resolution} steps")


def quantize(values: NDArray[np.floating], bound: float, resolution: int, source: RandomSource) -> GridVector:
    """Round a vector of norm ≤ ``bound`` (code units, shape ``[size]``) to integers of norm ≤ ``resolution``.

    One grid step is ``bound / resolution`` code units. Rounding is stochastic and unbiased but for two
    effects near the sphere: vectors within ``1/(2B) + size/(8B²)`` (relative, B = resolution) of the bound
    are first shrunk by that hair, and the rounding is conditioned on staying inside, which then happens at
    once with probability about .84.

    Raises ``ValueError`` if ``values`` has not been clipped to ``bound`` (more than 2e-6 above it), or is not
    finite. Source: conditional rounding of Kairouz, Liu, Steinke 2021 (arXiv:2102.06387), section 4.1.

    >>> quantize(np.array([0.6, 0.8]), 1.0, 1000, RandomSource.insecure(1)).values
    array([600, 800])
    """
    scaled = values.astype(np.float64) * (resolution / bound)
    length = norm(scaled)
    if not length <= resolution * (1 + 2e-6):
        raise ValueError(f"vector of norm {length * bound / resolution:.6g} is not clipped to {bound:.6g}")
    radius = _rounding_radius(scaled.size, resolution)
    scaled *= min(1.0, radius / (length or 1.0))  # by 1 too: how long this takes tells of no norm
    lower = np.floor(scaled)
    fraction, floor = scaled - lower, lower.astype(np.int64)
    for _ in range(ROUNDING_ATTEMPTS):
        rounded = floor + (source.uint64(scaled.size) * 2.0**-64 < fraction)
        if _within(rounded, resolution):
            return GridVector(rounded, resolution)
    return GridVector(np.trunc(scaled).astype(np.int64), resolution)


def _rounding_radius(size: int, resolution: int) -> float:
    """Norm from which rounding stays inside: E‖R‖² ≤ ‖x‖² + size/4, std(‖R‖²) ≤ about ‖x‖."""
    return math.sqrt(max(resolution**2 - size / 4 - resolution, resolution**2 / 4))


def _within(values: Integers, radius: int) -> bool:
    """Whether ``Σ values² ≤ radius²``, exactly: float64 sums integers without error up to 2^53, int64 up to 2^63."""
    square = squared_norm(values.astype(np.float64))
    if square < 2.0**52 or square > 1.001 * radius**2:
        return square <= radius**2
    return int(np.dot(values, values)) <= radius**2


def add_noise(vector: GridVector, std: float, source: RandomSource) -> Integers:
    """Add independent discrete Gaussians of standard deviation ``std`` (grid steps) to ``vector``."""
    return vector.values + discrete_gaussian(vector.values.size, std, source)


def discrete_gaussian(size: int, std: float, source: RandomSource) -> Integers:
    """``size`` independent draws of N_Z(0, std²), P(x) ∝ exp(−x²/2std²), as int64; zeros for ``std == 0``.

    Up to a std of 256 from one table. Above, as ``k·X + Y`` with X and Y from two tables: by Poisson
    summation that sum has the pmf of N_Z(0, k²a² + b²) up to a factor 1 ± 2·exp(−2π²τ²), τ = ab/std ≥ 7,
    below 1e-400.

    Raises ``ValueError`` for a std that is negative, not finite, or above 1e9. Source: Canonne, Kamath,
    Steinke 2020 (arXiv:2004.00010); sums after Micciancio, Walter 2017 (eprint 2017/259).
    """
    if not 0 <= std <= _LARGEST_STD:
        raise ValueError(f"noise std must lie in 0..{_LARGEST_STD:g} grid steps, not {std}")
    if std == 0 or size == 0:
        return np.zeros(size, dtype=np.int64)
    if std <= _SINGLE_TABLE_STD:
        return _table(std).draw(size, source)
    factor, coarse, fine = _split(std)
    draws = _table(coarse).draw(size, source)
    draws *= factor
    draws += _table(fine).draw(size, source)
    return draws


def reach(std: float) -> int:
    """Largest magnitude that ``discrete_gaussian`` can return for ``std``: wire formats are chosen by it."""
    if std <= _SINGLE_TABLE_STD:
        return math.ceil(REACH * std)
    factor, coarse, fine = _split(std)
    return factor * math.ceil(REACH * coarse) + math.ceil(REACH * fine)


def sampler_error(std: float) -> float:
    """Upper bound on the total variation distance of one draw from the exact N_Z(0, std²).

    Per table: the tail beyond ``REACH`` holds less than 2^-96, and each of at most 2^22 thresholds is off by
    less than 2^-127 (2^-128 from truncation, far less from 256-bit weights); two tables and the lattice term
    stay below 2^-94.
    """
    return 0.0 if std == 0 else 2.0**-94


def sum_error(std: float, count: int) -> float:
    """Upper bound on |ln ratio|, per value, of a sum of ``count`` draws to one of variance ``count·std²``.

    ``10·Σ_{k<count} exp(−2π²std²·k/(k+1)) ≤ 10·count·exp(−π²std²)``: 2e-61 for a million shares of std 4, 0
    in float64 from std 9 on. Summands of larger variance only lower it. Raises ``ValueError`` below a std of
    1/2. Source: Kairouz, Liu, Steinke 2021 (arXiv:2102.06387), theorem 1.
    """
    if count <= 1:
        return 0.0
    if std < 0.5:
        raise ValueError(f"the bound on sums needs shares of std 1/2 or more grid steps, not {std}")
    return 10.0 * count * math.exp(-(math.pi**2) * std**2)


def smoothing_error(std: float) -> float:
    """Upper bound on |ln ratio|, per value, of N_Z(x, s²+std²) to N(x, s²) re-drawn from N_Z(·, std²), any s.

    Shows that discrete noise is a post-processing of continuous noise whose variance is smaller by ``std²``:
    then every bound for the Gaussian mechanism, sampled and composed, holds for the discrete one. Poisson
    summation bounds the normalizers by 1 ± 2Σ exp(−2π²std²m²); at ``std`` = 2 the result is 5e-34.
    """
    return 10.0 * math.exp(-2 * math.pi**2 * std**2)


def _split(std: float) -> tuple[int, float, float]:
    """Factor k and stds (a, b) with ``k²a² + b² = std²`` and b = 8k, both tables about ``√(8·std)`` wide."""
    factor = math.ceil(math.sqrt(std / 8))
    fine = 8.0 * factor
    return factor, math.sqrt(std**2 - fine**2) / factor, fine


@dataclass(frozen=True, eq=False)
class _Table:
    """Thresholds of the CDF in 2^-128 as two words; a draw is ``#{thresholds ≤ u} − edge``, u uniform."""

    edge: int
    high: Words
    low: Words

    def draw(self, size: int, source: RandomSource) -> Integers:
        """Draw ``size`` values; the low word of u is fetched only where the high one does not decide."""
        word = source.uint64(size)
        index = np.searchsorted(self.high, word, side="right")
        undecided = np.flatnonzero(self.high[np.maximum(index - 1, 0)] == word)
        for place in undecided:
            first = int(np.searchsorted(self.high, word[place], side="left"))
            second = source.uint64(1)[0]
            index[place] = first + int(np.sum(self.low[first : index[place]] <= second))
        return index.astype(np.int64) - self.edge


@lru_cache(maxsize=64)
def _table(std: float) -> _Table:
    """Build the table for ``std`` in 256-bit fixed point: w(k+1) = w(k)·r(k), r(k+1) = r(k)·exp(−1/std²)."""
    with localcontext() as context:
        context.prec = 100
        variance = Decimal(std) ** 2
        one = 1 << _FRACTION_BITS
        ratio = int((-1 / (2 * variance)).exp() * one)
        square = int((-1 / variance).exp() * one)
    weights = [one]
    for _ in range(math.ceil(REACH * std)):
        weights.append(weights[-1] * ratio >> _FRACTION_BITS)
        ratio = ratio * square >> _FRACTION_BITS
    ordered = weights[:0:-1] + weights[:-1]
    total, cumulative, thresholds = 2 * sum(weights) - one, 0, []
    for weight in ordered:
        cumulative += weight
        thresholds.append((cumulative << _THRESHOLD_BITS) // total)
    high = np.array([threshold >> 64 for threshold in thresholds], dtype=np.uint64)
    low = np.array([threshold & (2**64 - 1) for threshold in thresholds], dtype=np.uint64)
    return _Table(len(weights) - 1, high, low)
