"""A lower bound on the privacy loss of a mechanism, from its outputs alone.

A mechanism that is μ-GDP lets no test tell two neighboring inputs apart with Φ⁻¹(1−α) − Φ⁻¹(β) > μ (α: false
alarms, β: misses). Both rates are measured for one threshold test fixed in advance and replaced by
Clopper-Pearson upper limits, so the result exceeds the true μ with probability at most 1 − confidence.
Source: Nasr et al. 2023 (arXiv:2302.07956), Dong, Roth, Su 2019, theorem 2.7.
"""

from collections.abc import Callable

import numpy as np
from scipy import stats

Mechanism = Callable[[bool], float]
"""Run once, with or without the client, and return a score that is larger with it."""


def mu_lower_bound(mechanism: Mechanism, threshold: float, runs: int = 4000, confidence: float = 0.999) -> float:
    """Lower bound on μ at ``confidence`` from ``runs`` runs in each world."""
    alarms = sum(mechanism(False) > threshold for _ in range(runs))
    misses = sum(mechanism(True) <= threshold for _ in range(runs))
    level = 1 - (1 - confidence) / 2
    rates = [
        float(stats.beta.ppf(level, count + 1, runs - count)) if count < runs else 1.0 for count in (alarms, misses)
    ]
    return float(stats.norm.isf(rates[0]) - stats.norm.ppf(rates[1]))


def projection(values: np.ndarray, direction: np.ndarray) -> float:
    """Score of an output: its component along the audited client's code, in units of that code's norm."""
    return float(values @ direction / np.linalg.norm(direction))
