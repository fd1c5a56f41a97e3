"""What a δ must be, and what it is when nobody says; imports nothing heavy."""

from common.counts import count


def default_delta(clients: int) -> float:
    """δ = 1/(10·M) for M clients."""
    return 1 / (10 * clients)


def check_delta(delta: float, clients: int) -> None:
    """Raise ``ValueError`` unless 0 < δ < 1/M: at 1/M, publishing one random client counts as private."""
    if not 0 < delta < 1 / clients:
        raise ValueError(
            f"delta = {delta:g} must be positive and below 1/M = {1 / clients:g} for M = {count(clients, 'client')}"
        )
