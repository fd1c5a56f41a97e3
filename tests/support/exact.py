"""Epsilons by formula, without the app's code."""

import math

from scipy.optimize import brentq
from scipy.stats import norm


def exact_epsilon(mu: float, delta: float) -> float:
    """Root of delta(epsilon) of the Gaussian mechanism (Balle and Wang 2018, theorem 8)."""

    def excess(epsilon: float) -> float:
        above, below = norm.cdf(mu / 2 - epsilon / mu), norm.cdf(-mu / 2 - epsilon / mu)
        return float(above - math.exp(epsilon) * below - delta)

    return float(brentq(excess, 0.0, 100.0, xtol=1e-10))
