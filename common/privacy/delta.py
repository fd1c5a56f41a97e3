"""What a δ must be, and what it is when nobody says; imports nothing heavy."""

from common.counts import count

SMALLEST_DELTA = 1e-10
"""Below it the rounding of the accountant's convolutions (``accounting.ROUNDING``) would be much of a δ."""


def default_delta(clients: int) -> float:
    """δ = 1/(10·M) for M clients."""
    return 1 / (10 * clients)


def check_delta(delta: float, clients: int) -> None:
    """Raise ``ValueError`` unless 1e-10 ≤ δ < 1/M: at 1/M, publishing one random client counts as private."""
    if not 0 < delta < 1 / clients:
        raise ValueError(
            f"delta = {delta:g} must be positive and below 1/M = {1 / clients:g} for M = {count(clients, 'client')}"
        )
    if delta < SMALLEST_DELTA:
        raise ValueError(
            f"delta = {delta:g} is below {SMALLEST_DELTA:g}: no epsilon is claimed there, since the accountant's "
            "arithmetic does not resolve it"
        )
