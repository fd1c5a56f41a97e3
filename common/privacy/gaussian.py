"""Exact and approximate formulas of Gaussian differential privacy: μ-GDP to (ε, δ) and back.

A mechanism is μ-GDP if telling neighbors apart is no easier than N(0, 1) from N(μ, 1). The Gaussian
mechanism with noise multiplier z is (1/z)-GDP and composition adds μ², both exactly. Sources: Dong, Roth, Su
2019 (arXiv:1905.02383), Balle, Wang 2018 (arXiv:1805.06530), Bu et al. 2019 (arXiv:1911.11607).
"""

import math

from scipy.special import log_ndtr


def gaussian_delta(mu: float, epsilon: float) -> float:
    """δ(ε) of μ-GDP: Φ(−ε/μ + μ/2) − e^ε·Φ(−ε/μ − μ/2). Source: Dong et al., corollary 2.13."""
    if mu == 0:
        return max(0.0, -math.expm1(epsilon))
    first = float(log_ndtr(-epsilon / mu + mu / 2))
    second = epsilon + float(log_ndtr(-epsilon / mu - mu / 2))
    return math.exp(first) * -math.expm1(second - first) if second < first else 0.0


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Solve δ(ε) = ``delta`` for ε ≥ 0 under μ-GDP, exact to 1e-12 and rounded up; ∞ for μ = ∞.

    Raises ``ValueError`` for a negative μ or a δ outside (0, 1).

    >>> round(gaussian_epsilon(1.0, 1e-5), 4), gaussian_epsilon(math.inf, 1e-5)
    (4.3772, inf)
    """
    if mu < 0 or not 0 < delta < 1:
        raise ValueError(f"need mu ≥ 0 and 0 < delta < 1, not mu = {mu}, delta = {delta}")
    if math.isinf(mu):
        return math.inf
    if gaussian_delta(mu, 0.0) <= delta:
        return 0.0
    low, high = 0.0, mu * mu / 2 + mu * math.sqrt(2 * math.log(1 / delta))
    while high - low > 1e-13 * high:
        middle = (low + high) / 2
        if middle in {low, high}:
            break
        low, high = (middle, high) if gaussian_delta(mu, middle) > delta else (low, middle)
    return high


def gaussian_mu(epsilon: float, delta: float) -> float:
    """Solve for the largest μ whose μ-GDP implies (ε, δ), rounded down; 1/μ is the noise multiplier.

    >>> round(gaussian_mu(gaussian_epsilon(0.5, 1e-5), 1e-5), 9)
    0.5
    """
    low, high = 0.0, 1.0
    while gaussian_delta(high, epsilon) <= delta:
        low, high = high, 2 * high
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if gaussian_delta(middle, epsilon) <= delta else (low, middle)
    return low


def gdp_clt_mu(noise_multiplier: float, sampling_rate: float, rounds: int) -> float:
    """Equation (7) of the paper: μ = p·√T·√(e^{1/σ²} − 1), the central limit of T sampled Gaussians.

    A limit, not a bound: at δ = 1e-5 it understates ε by up to half at the settings of Table 3. For
    comparison only.
    """
    if noise_multiplier == 0:
        return math.inf
    exponent = noise_multiplier**-2
    return math.inf if exponent > 700 else sampling_rate * math.sqrt(rounds * math.expm1(exponent))
