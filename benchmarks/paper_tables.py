"""What the paper prints (Tables 1 and 3) and the figures that belong to each row.

The paper solves equation (7) for σ at given ε and prints two decimals of it, so the other columns belong to the
*unrounded* σ, which ``Setting.sigma`` solves again.
"""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from dp_accounting.rdp.rdp_privacy_accountant import compute_epsilon
from numpy.typing import NDArray

from benchmarks.printed_mechanism import printed_sigma
from common.privacy.accounting import (
    PAPER_ORDERS,
    RUNNING_GRID,
    Charge,
    epsilon,
    gaussian_epsilon,
    gdp_clt_mu,
    rdp_epsilon,
)


@dataclass(frozen=True)
class Row:
    """One line of Table 3: σ, RDP ε and GDP ε, as printed."""

    sigma: float
    rdp: float
    gdp: float


@dataclass(frozen=True)
class Setting:
    """One half of Table 3 and its line of Table 1; ``rdp_rounds`` is the T at which the RDP column comes out.

    The row σ = 0, ε = ∞ holds by definition and is left out.
    """

    name: str
    sampling_rate: float
    rounds: int
    rdp_rounds: int
    samples: int
    rows: tuple[Row, ...]

    @property
    def delta(self) -> float:
        """δ = 1 / number of training samples: not printed, but the value at which all of Table 3 comes out."""
        return 1 / self.samples

    def sigma(self, row: Row, rounds: int | None = None) -> float:
        """The σ at which equation (7) gives the GDP ε of ``row`` after ``rounds``, by default those of Table 1."""
        return printed_sigma(row.gdp, self.delta, self.sampling_rate, rounds or self.rounds)


LLAMA = Setting(
    "LLaMA",
    sampling_rate=0.05,
    rounds=20,
    rdp_rounds=20,
    samples=149,
    rows=(
        Row(0.46, 7.55, 8.00),
        Row(0.52, 5.57, 4.00),
        Row(0.60, 3.71, 2.00),
        Row(0.75, 2.12, 1.00),
        Row(1.00, 1.00, 0.50),
        Row(1.45, 0.42, 0.25),
    ),
)
QWEN = Setting(
    "Qwen",
    sampling_rate=1.0,
    rounds=4,
    rdp_rounds=5,
    samples=285,
    rows=(
        Row(1.10, 7.79, 8.00),
        Row(1.63, 4.66, 4.00),
        Row(2.64, 2.55, 2.00),
        Row(4.47, 1.33, 1.00),
        Row(7.70, 0.69, 0.50),
        Row(13.24, 0.36, 0.25),
    ),
)
SETTINGS = (LLAMA, QWEN)


def matches(value: float, printed: float) -> bool:
    """Whether ``value`` reads as ``printed`` at the two decimals of Table 3."""
    return f"{value:.2f}" == f"{printed:.2f}"


def sampled_divergence(sigma: float, rate: float, order: float) -> float:
    """Rényi divergence of ``order`` of one Poisson-sampled Gaussian, by quadrature.

    log E[((1−p) + p·e^((2x−1)/2σ²))^α] / (α−1) over x ~ N(0, σ²). Source: Mironov, Talwar, Zhang 2019
    (arXiv:1908.10530), section 3.3. dp_accounting 0.6 has the same value at whole orders and an upper bound between
    them, since its series adds the absolute values of terms of alternating sign.
    """
    x = np.linspace(-15 * sigma, order + 15 * sigma, 8001)
    density = -0.5 * (x / sigma) ** 2 - math.log(sigma * math.sqrt(2 * math.pi))
    ratio = (2 * x - 1) / (2 * sigma**2)
    if rate < 1:
        ratio = np.logaddexp(math.log1p(-rate), math.log(rate) + ratio)
    logs = density + order * ratio
    return float(logs.max() + math.log(np.trapezoid(np.exp(logs - logs.max()), x))) / (order - 1)


@cache
def _divergences(sigma: float, rate: float) -> NDArray[np.float64]:
    return np.array([sampled_divergence(sigma, rate, order) for order in PAPER_ORDERS])


def renyi_epsilon(setting: Setting, sigma: float, rounds: int) -> float:
    """RDP ε after ``rounds``: min over the paper's orders of r + ln(1 − 1/α) − ln(δα)/(α − 1)."""
    divergences = rounds * _divergences(sigma, setting.sampling_rate)
    return float(compute_epsilon(PAPER_ORDERS, divergences, setting.delta)[0])


@cache
def library_epsilon(setting: Setting, sigma: float, rounds: int) -> float:
    """RDP ε by dp_accounting: an upper bound of ``renyi_epsilon``."""
    return rdp_epsilon([Charge(sigma, setting.sampling_rate, rounds)], setting.delta, PAPER_ORDERS)


def claimed_epsilon(setting: Setting, sigma: float, delta: float) -> float:
    """GDP ε as the paper computes it: equation (7), converted exactly."""
    return gaussian_epsilon(gdp_clt_mu(sigma, setting.sampling_rate, setting.rounds), delta)


@cache
def true_epsilon(setting: Setting, sigma: float, delta: float) -> float:
    """ε of the mechanism that the paper analyses, T sampled Gaussians, by its privacy loss distribution.

    The coarse grid is enough: an upper bound too, equal to that of the fine one at three significant digits.
    """
    return epsilon([Charge(sigma, setting.sampling_rate, setting.rounds)], delta, grid=RUNNING_GRID)
