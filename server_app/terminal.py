"""How figures are written for people, and the mark of a run's own lines among Flower's. Imports nothing heavy."""

import math

MARK = "[dr-encoder] "
TRACEBACK = "(a traceback is in Flower's log)"  # behind an error that the app did not expect


def show(epsilon: float | str) -> str:
    """An epsilon rounded up at the third digit, so that what is printed still holds; ``"inf"`` passes."""
    value = float(epsilon)
    return "inf" if math.isinf(value) else f"{math.ceil(value * 1000) / 1000:.3f}"


def kilobytes(count: float) -> str:
    """A byte count in kB (1,000 bytes)."""
    return f"{count / 1000:,.1f} kB"


def clock(seconds: float) -> str:
    """Seconds as minutes:seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def count(number: int, what: str) -> str:
    """A number of things: ``1 run``, ``2 runs``, ``1,000 runs``."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
