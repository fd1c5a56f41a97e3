"""Norms of vectors and of noise.

Sums of squares by numpy's own loops: BLAS starts threads from 10,000 values on, which wait for a core if it is busy.

On two busy cores a norm of 24,576 values took 8 to 28 ms by BLAS and takes .02 ms so; of 8 million it takes the same.
"""

import math

import numpy as np
from numpy.typing import NDArray


def squared_norm(values: NDArray[np.float64]) -> float:
    """``Σ values²`` of a vector of shape ``[size]``, in float64; exact for integers as long as it is below 2^53."""
    return float(np.einsum("i,i->", values, values))


def norm(values: NDArray[np.float64]) -> float:
    """The ℓ2 norm of a vector of shape ``[size]``, in float64."""
    return math.sqrt(squared_norm(values))


def noisy_norm_limit(size: int, bound: float, std: float, probability: float) -> float:
    """The norm that v + X exceeds with ``probability`` at most: ‖v‖ ≤ ``bound``, X of ``size`` values N_Z(0, std²).

    With t = −ln(probability), ‖v + X‖² ≤ n·s² + B² + 2s·√((n·s² + 2B²)·t) + 2s²·t, for real noise by Birgé 2001 (An
    alternative point of view on Lepski's method, lemma 8.1: the non-central χ²). Its proof is a Chernoff bound, and
    the discrete Gaussian's exponential moments are no larger for an integer v: with r² = s²/(1−2λs²), E exp(λ(v+X)²)
    is exp(λv²/(1−2λs²)) times Σ exp(−(x−μ)²/2r²) / Σ exp(−x²/2s²) over the integers, which by Poisson summation is
    at most r/s whatever μ.
    """
    variance, tail = std**2, -math.log(probability)
    spread = 2 * math.sqrt((size * variance + 2 * bound**2) * variance * tail)
    return math.sqrt(size * variance + bound**2 + spread + 2 * variance * tail)
