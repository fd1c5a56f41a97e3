"""Names of the scores in a run's metrics, for whoever reads a run's files without the libraries that made them."""

import math
from collections.abc import Mapping
from typing import Any

PRIVATE_LOSS, PRIVATE_ACCURACY = "private_loss", "private_accuracy"
"""Of private evaluation. Their standard errors, of the noise alone, are named with ``_error`` behind."""


def part_of(key: str) -> tuple[str, str | None]:
    """The score that a key of ``metrics.jsonl`` is of, and the group; ``None`` where it is of all rows.

    A group may have any name, dots, slashes and ``_error`` in it.

    >>> part_of("loss"), part_of("loss.a.b_error")
    (('loss', None), ('loss', 'a.b_error'))
    """
    score, of_group, group = key.partition(".")
    return score, group if of_group else None


def is_error(key: str) -> bool:
    """Whether it is the standard error of another; those of groups are not kept."""
    score, group = part_of(key)
    return group is None and score.endswith("_error")


def error_of(key: str, scores: Mapping[str, Any]) -> float:
    """The standard error of a score, not a number where there is none: a single question has none, in JSON ``None``.

    >>> error_of("loss", {"loss": 1.5, "loss_error": 0.5}), error_of("loss", {"loss": 1.5, "loss_error": None})
    (0.5, nan)
    """
    found = scores.get(f"{key}_error") if part_of(key)[1] is None else None
    return math.nan if found is None else float(found)
