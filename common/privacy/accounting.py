"""What the releases cost: ε at a δ, the noise that a budget allows, and the running total of a run.

Guarantees come from privacy loss distributions (PLD) under zero-out adjacency (``REPLACE_SPECIAL``: a
client's code is replaced by zero), taking the worse of both orders of the neighbors. dp_accounting's PLDs
are pessimistic: losses are rounded so that δ(ε) is an upper bound at any grid, and truncated tails count as
δ. What they leave out is the rounding of the convolutions, seen to reach 1e-13 in δ; ``ROUNDING`` is set aside for
it. "rdp", "gdp" and "prv" are labeled comparisons.

Approximations that cost an additive δ (``slack``) are subtracted from δ before ε is computed.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent
from dp_accounting.pld import privacy_loss_distribution
from dp_accounting.rdp import RdpAccountant

from common.privacy.crosscheck import CrossCheckUnavailable, prv_bounds
from common.privacy.delta import check_delta, default_delta
from common.privacy.gaussian import gaussian_delta, gaussian_epsilon, gaussian_mu, gdp_clt_mu
from common.privacy.rdp_orders import quiet_orders
from common.privacy.untold import UNTOLD_EPSILON, is_untold

__all__ = [
    "PAPER_ORDERS",
    "Charge",
    "CrossCheckUnavailable",
    "RunningAccountant",
    "calibrate",
    "check_delta",
    "cross_check",
    "default_delta",
    "epsilon",
    "gaussian_delta",
    "gaussian_epsilon",
    "gaussian_mu",
    "gdp_clt_mu",
    "max_rounds",
    "rdp_epsilon",
]

CERTIFY_GRID, RUNNING_GRID = 1e-4, 1e-3
SMALLEST_MULTIPLIER = 0.1
"""``calibrate`` never goes below: such noise hides nothing, whatever the budget."""
LARGEST_MULTIPLIER = 1e5
ROUNDING = 1e-11
"""Part of every δ that is set aside wherever distributions are convolved: a hundred times the rounding seen there."""

PAPER_ORDERS = tuple(1 + x / 10 for x in range(1, 100)) + tuple(float(x) for x in range(12, 64))
"""The Rényi orders behind Table 3 and Figure 1 of the paper: 1.1 … 10.9, 12 … 63."""


@dataclass(frozen=True)
class Charge:
    """``count`` Gaussian releases of noise multiplier z, Poisson-sampled at ``sampling_rate`` (1: always).

    z = 0 is a release without noise: ε = ∞. Raises ``ValueError`` for values out of range.
    """

    noise_multiplier: float
    sampling_rate: float = 1.0
    count: int = 1
    label: str = ""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.noise_multiplier) and self.noise_multiplier >= 0):
            raise ValueError(f"noise multiplier must be finite and not negative, not {self.noise_multiplier}")
        if not 0 <= self.sampling_rate <= 1:
            raise ValueError(f"sampling rate must lie in 0..1, not {self.sampling_rate}")
        if self.count < 0:
            raise ValueError(f"count must not be negative, not {self.count}")


def epsilon(charges: Sequence[Charge], delta: float, accountant: str = "pld", *, grid: float = CERTIFY_GRID) -> float:
    """ε of all ``charges`` together at ``delta``; ∞ as soon as one has no noise, 0 if there are none.

    Where ``is_untold``, ∞ too. ``accountant``: "pld", the guarantee, at discretization ``grid``; "prv", an upper
    bound, or ``CrossCheckUnavailable``; "rdp", looser; "gdp", equation (7) of the paper, an approximation that may
    lie *below* the true ε. Raises ``ValueError`` for a δ outside (0, 1), an unknown accountant, or "gdp" with
    charges of several kinds.
    """
    if not 0 < delta < 1:
        raise ValueError(f"delta must lie in (0, 1), not {delta}")
    if accountant not in _ACCOUNTANTS:
        raise ValueError(f"accountant must be one of {', '.join(_ACCOUNTANTS)}, not {accountant!r}")
    if any(charge.noise_multiplier == 0 and charge.count for charge in charges):
        return math.inf
    events = _kinds(charges) if accountant == "gdp" else _events(charges)
    if accountant in ("pld", "prv") and _are_untold(events, delta):
        return math.inf
    return _ACCOUNTANTS[accountant](events, delta, grid) if events else 0.0


def cross_check(charges: Sequence[Charge], delta: float, *, timeout: float = 60.0) -> tuple[float, float] | str:
    """Ask the PRV accountant for (lower, upper) on ε, in which PLD must lie, or why it has none.

    The bracket is about .02 wide on each side. ``timeout``: seconds; the worker may take 4 GiB of address
    space.
    """
    if any(charge.noise_multiplier == 0 and charge.count for charge in charges):
        return "not cross-checked: a release without noise has no finite ε"
    events = _events(charges)
    if _are_untold(events, delta):
        return f"not cross-checked: epsilon is above {UNTOLD_EPSILON:g}"
    try:
        bounds = prv_bounds(events, delta, epsilon_error=0.02, timeout=timeout, memory_gib=4) if events else (0.0, 0.0)
    except CrossCheckUnavailable as reason:
        return f"not cross-checked: {reason}"
    return bounds


def rdp_epsilon(charges: Sequence[Charge], delta: float, orders: Sequence[float] | None = None) -> float:
    """ε by Rényi DP at the given ``orders`` (dp_accounting's own if none): looser than PLD."""
    if any(charge.noise_multiplier == 0 and charge.count for charge in charges):
        return math.inf
    accountant = RdpAccountant(orders, NeighboringRelation.REPLACE_SPECIAL)
    with quiet_orders():
        for multiplier, rate, count in _events(charges):
            event = GaussianDpEvent(multiplier)
            accountant.compose(event if rate == 1 else PoissonSampledDpEvent(rate, event), count)
    return float(accountant.get_epsilon(delta))


def calibrate(
    epsilon: float,
    delta: float,
    *,
    sampling_rate: float,
    rounds: int,
    before: Sequence[Charge] = (),
    slack: float = 0.0,
) -> float:
    """Noise multiplier z at which ``before`` and ``rounds`` sampled releases cost at most ``epsilon``.

    Within 1 % of the smallest such z and never below it (nor below .1); it holds on the 1e-4 grid at
    ``delta − slack``. Raises ``ValueError`` if there is nothing to calibrate or ``before`` leaves no budget.
    """
    if epsilon <= 0 or rounds < 1 or not 0 < sampling_rate <= 1:
        raise ValueError(
            f"need epsilon > 0, rounds ≥ 1, 0 < sampling rate ≤ 1, not {epsilon}, {rounds}, {sampling_rate}"
        )
    usable = _usable(delta, slack)
    grid = _search_grid(epsilon, [*before, Charge(1.0, sampling_rate, rounds)])

    def fits(multiplier: float) -> bool:
        return _epsilon([*before, Charge(multiplier, sampling_rate, rounds)], usable, grid=grid) <= epsilon

    if before and _epsilon(before, usable) >= epsilon:
        raise ValueError(f"no budget left: what came before already costs {_epsilon(before, usable)} of {epsilon}")
    start = max(1.0, sampling_rate * math.sqrt(rounds) / gaussian_mu(epsilon, usable))
    if not fits(LARGEST_MULTIPLIER):
        raise ValueError(f"no budget left: even z = {LARGEST_MULTIPLIER:g} would exceed epsilon = {epsilon:.4g}")
    return _smallest(fits, start)


def max_rounds(
    epsilon: float,
    delta: float,
    *,
    noise_multiplier: float,
    sampling_rate: float,
    before: Sequence[Charge] = (),
    slack: float = 0.0,
    limit: int = 1_000_000,
) -> int:
    """Count the rounds, up to ``limit``, that ``epsilon`` at ``delta − slack`` pays for after ``before``."""
    usable = _usable(delta, slack)

    def fits(rounds: int) -> bool:
        charges = [*before, Charge(noise_multiplier, sampling_rate, rounds)]
        return _epsilon(charges, usable, grid=_search_grid(epsilon, charges)) <= epsilon

    low, high = 0, 1
    while high <= limit and fits(high):
        low, high = high, 2 * high
    high = min(high, limit + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


class RunningAccountant:
    """ε of a run as it goes: ``epsilon()`` is cheap enough for every round, ``certify()`` is for the report.

    Both are upper bounds (PLD, pessimistic); the cheap one composes incrementally on a 1e-3 grid, so it is
    never below the true ε and at most about 1e-3 relative above ``certify()``. ``slack``: additive δ reserved
    for the whole run.
    """

    def __init__(self, delta: float, slack: float = 0.0) -> None:
        self._delta = _usable(delta, slack)
        self._charges: list[Charge] = []
        self._loss = privacy_loss_distribution.identity(RUNNING_GRID)
        self._mu_squared = 0.0
        self._infinite = False

    def charge(self, charge: Charge) -> None:
        """Add one charge; nothing is ever taken back."""
        self._charges.append(charge)
        if charge.count == 0 or self._infinite:
            return
        if charge.noise_multiplier == 0 or _are_untold(_events(self._charges), self._delta):
            self._infinite = True
        elif charge.sampling_rate == 1:
            self._mu_squared += charge.count / charge.noise_multiplier**2
        elif charge.sampling_rate > 0:
            single = _loss(charge.noise_multiplier, charge.sampling_rate, RUNNING_GRID)
            self._loss = self._loss.compose(single if charge.count == 1 else single.self_compose(charge.count))

    def epsilon(self) -> float:
        """Upper bound on the ε spent so far; never decreases."""
        if self._infinite:
            return math.inf
        if all(charge.sampling_rate in {0, 1} for charge in self._charges):
            return gaussian_epsilon(math.sqrt(self._mu_squared), self._delta)
        total = self._loss
        if self._mu_squared:
            total = total.compose(_loss(self._mu_squared**-0.5, 1.0, RUNNING_GRID))
        return _read(total, self._delta)

    def certify(self) -> float:
        """Upper bound for the report: all charges at once on the 1e-4 grid."""
        return _epsilon(self._charges, self._delta)


_epsilon = epsilon  # ``calibrate`` and ``max_rounds`` have a parameter of that name
_Event = tuple[float, float, int]


def _search_grid(epsilon: float, charges: Sequence[Charge]) -> float:
    """Grid on which discretization adds about .05 % to ``epsilon`` (it adds some .4·T·grid²), at most 5e-3.

    Always a multiple of the certifying grid: connecting the dots of the convex δ(e^ε) at a subset of its
    points lies above connecting all, so what holds on the search grid holds on the certifying one.
    """
    rounds = sum(charge.count for charge in charges if charge.sampling_rate < 1)
    steps = 0.03 * math.sqrt(epsilon / max(1, rounds)) / CERTIFY_GRID
    return min(50, max(1, math.floor(steps))) * CERTIFY_GRID


def _usable(delta: float, slack: float) -> float:
    if not 0 <= slack < delta < 1:
        raise ValueError(f"need 0 ≤ slack < delta < 1, not slack = {slack:g}, delta = {delta:g}")
    return delta - slack


def _kinds(charges: Sequence[Charge]) -> list[_Event]:
    """Distinct events with their counts."""
    counts: dict[tuple[float, float], int] = {}
    for charge in charges:
        if charge.count and charge.sampling_rate:
            key = (charge.noise_multiplier, charge.sampling_rate)
            counts[key] = counts.get(key, 0) + charge.count
    return [(multiplier, rate, count) for (multiplier, rate), count in sorted(counts.items())]


def _events(charges: Sequence[Charge]) -> list[_Event]:
    """Distinct events with their counts; unsampled Gaussians merge exactly into one, 1/z² being additive."""
    kinds = _kinds(charges)
    mu_squared = sum(count / multiplier**2 for multiplier, rate, count in kinds if rate == 1)
    merged = [(mu_squared**-0.5, 1.0, 1)] if mu_squared else []
    return merged + [kind for kind in kinds if kind[1] != 1]


def _are_untold(events: Sequence[_Event], delta: float) -> bool:
    """Whether one of them is; an unsampled one too, where its distribution is needed to compose it with others."""
    return any(
        is_untold(multiplier, rate, count, delta)
        or (rate == 1 and len(events) > 1 and gaussian_epsilon(1 / multiplier, delta) > UNTOLD_EPSILON)
        for multiplier, rate, count in events
    )


@lru_cache(maxsize=128)
def _loss(multiplier: float, rate: float, grid: float) -> Any:  # noqa: ANN401 - dp_accounting is untyped
    return privacy_loss_distribution.from_gaussian_mechanism(
        multiplier,
        sampling_prob=rate,
        value_discretization_interval=grid,
        neighboring_relation=NeighboringRelation.REPLACE_SPECIAL,
    )


def _pld(events: Sequence[_Event], delta: float, grid: float) -> float:
    if len(events) == 1 and events[0][1] == 1:
        return gaussian_epsilon(1 / events[0][0], delta)
    total = privacy_loss_distribution.identity(grid)
    for multiplier, rate, count in events:
        single = _loss(multiplier, rate, grid)
        total = total.compose(single if count == 1 else single.self_compose(count))
    return _read(total, delta)


def _read(loss: Any, delta: float) -> float:  # noqa: ANN401 - dp_accounting is untyped
    """ε of a convolved distribution at δ less what rounding may hide there; ∞ where that is all of it."""
    return max(0.0, float(loss.get_epsilon_for_delta(delta - ROUNDING))) if delta > ROUNDING else math.inf


def _prv(events: Sequence[_Event], delta: float, grid: float) -> float:
    return prv_bounds(events, delta, epsilon_error=0.02, timeout=60.0, memory_gib=4)[1]


def _rdp(events: Sequence[_Event], delta: float, grid: float) -> float:
    return rdp_epsilon([Charge(*event) for event in events], delta)


def _gdp(events: Sequence[_Event], delta: float, grid: float) -> float:
    if len(events) != 1:
        raise ValueError("equation (7) is stated for one kind of charge only; use pld for mixed ones")
    ((multiplier, rate, count),) = events
    return gaussian_epsilon(gdp_clt_mu(multiplier, rate, count), delta)


_ACCOUNTANTS: dict[str, Callable[[Sequence[_Event], float, float], float]] = {
    "pld": _pld,
    "prv": _prv,
    "rdp": _rdp,
    "gdp": _gdp,
}


def _smallest(fits: Callable[[float], bool], start: float) -> float:
    """Find the smallest z ≥ .1, to .1 %, that ``fits``; always one that does."""
    high = start
    while not fits(high):
        high *= 1.5
    low = high / 1.5
    while low > SMALLEST_MULTIPLIER and fits(low):
        low, high = low / 1.5, low
    low = max(low, SMALLEST_MULTIPLIER)
    if fits(low):
        return low
    while high > 1.001 * low:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high
