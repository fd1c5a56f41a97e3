"""Rows of an experiment on a real model as Markdown: means over seeds with standard errors."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

_COLUMNS = (
    *(
        "row",
        "step",
        "seeds",
        "ε",
        "values up",
        "bytes up",
        "validation",
        "test",
        "mean of the second half: validation",
    ),
    *("test", "forgets: questions, dialogues", "BLEU", "ROUGE-L"),
)


def with_error(values: Sequence[float], digits: int = 3) -> str:
    """Mean ± standard error; the mean alone for one value, a dash for none."""
    if not values:
        return "–"
    error = f" ± {stdev(values) / math.sqrt(len(values)):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{error}"


def last(losses: Mapping[str, float]) -> float:
    """The loss of the latest round."""
    return losses[max(losses, key=int)]


def table(rows: Sequence[Mapping[str, Any]], scores: Sequence[Mapping[str, Any]]) -> str:
    """One line for every label and step, in the order in which they were run."""
    groups: dict[tuple[str, float], list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[(row["label"], row["keys"].get("server.learning-rate", 0.0))].append(row)
    base = next((row["retention"] for row in rows if row["label"] == "base"), None)
    lines = [_line(label, step, members, base, scores) for (label, step), members in groups.items()]
    return "\n".join([f"| {' | '.join(_COLUMNS)} |", "|" + "---|" * len(_COLUMNS), *lines])


def _line(
    label: str,
    step: float,
    members: Sequence[Mapping[str, Any]],
    base: Mapping[str, float] | None,
    scores: Sequence[Mapping[str, Any]],
) -> str:
    first = members[0]
    names = {row["id"] for row in members}
    written = [score for score in scores if score["id"] in names]
    forgotten = [
        with_error([row["retention"][kind] - base[kind] for row in members if "retention" in row])
        for kind in (base or {})
        if base
    ]
    beams = sorted({score["beams"] for score in written})
    cells = [
        label,
        f"{step:g}",
        str(len(members)),
        f"{first['plan']['epsilon']:.3g}" if isinstance(first.get("plan", {}).get("epsilon"), float) else "∞",
        f"{first['values']['code']:,}" if "values" in first else "–",
        f"{first['bytes_up']:,}" if "bytes_up" in first else "–",
        with_error([last(row["validation"]) for row in members]),
        with_error([row["test"] for row in members if "test" in row]),
        with_error([row["late_mean"]["validation"] for row in members if "late_mean" in row]),
        with_error([row["late_mean"]["test"] for row in members if "test" in row.get("late_mean", {})]),
        ", ".join(forgotten) or "–",
        *(
            "; ".join(f"{n}: {with_error([s[key] for s in written if s['beams'] == n], 1)}" for n in beams) or "–"
            for key in ("bleu", "rougeL")
        ),
    ]
    return f"| {' | '.join(cells)} |"
