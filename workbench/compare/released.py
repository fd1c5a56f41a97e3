"""At which ε a row belongs: that of its released models, which may be above what was asked for, or ∞."""

import math
from typing import Any

from server_app.results.units import rounded_up

_ROUNDING = 1e-9

Row = dict[str, Any]


def is_private(row: Row) -> bool:
    """Whether a finite ε is certified for the released models of a row."""
    return row["epsilon_released"] is not None and math.isfinite(float(row["epsilon_released"]))


def is_above_asked(row: Row) -> bool:
    """Whether models were released at a larger ε than was asked for: ∞, as a rule (a stage 1 in the clear)."""
    released = row["epsilon_released"]
    return released is not None and float(released) > float(row["epsilon_asked"]) * (1 + _ROUNDING)


def place(row: Row) -> float:
    """The ε that a row is drawn at: what was asked for where its ledger certifies it, else what was released."""
    return rounded_up(float(row["epsilon_released"])) if is_above_asked(row) else float(row["epsilon_asked"])


def name_of(epsilon: float) -> str:
    """An ε for people."""
    return "∞" if math.isinf(epsilon) else f"{rounded_up(epsilon, 6):g}"
