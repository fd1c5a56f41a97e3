"""Rows of an experiment on a real model as Markdown: means over seeds with standard errors."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from benchmarks.real_run import BASE, MEAN
from server_app.results.units import rounded_up

Record = Mapping[str, Any]
_COLUMNS = (
    *("row", "step", "seeds", "ε", "values up", "bytes up / down", "validation", "validation, late mean"),
    *("test", "more on questions, dialogues", "BLEU, greedy", "BLEU, beams", "ROUGE-L, greedy", "beams"),
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


def table(rows: Sequence[Record], scores: Sequence[Record]) -> str:
    """One line for every label and step, in the order in which they were run, and one for its late mean if scored."""
    groups: dict[tuple[str, float], list[Record]] = defaultdict(list)
    for row in rows:
        groups[(row["label"], row["keys"].get("server.learning-rate", 0.0))].append(row)
    lines = [f"| {' | '.join(_COLUMNS)} |", "|" + "---|" * len(_COLUMNS)]
    base: Mapping[str, float] = next(
        (score["retention"] for score in scores if score["id"] == BASE and "retention" in score), {}
    )
    for (label, step), members in groups.items():
        for ending in ("", MEAN):
            names = {row["id"] + ending for row in members}
            own = [score for score in scores if score["id"] in names]
            if own or not ending:
                lines.append(_line(label + (", late mean" if ending else ""), step, members, own, base))
    return "\n".join(lines)


def _line(label: str, step: float, rows: Sequence[Record], scores: Sequence[Record], base: Mapping[str, float]) -> str:
    first = rows[0]
    epsilon = first.get("plan", {}).get("epsilon")
    losses = [score for score in scores if "test" in score]
    texts = [[score for score in scores if score["beams"] == 1], [score for score in scores if score["beams"] > 1]]
    cells = [
        label,
        f"{step:g}",
        str(len(rows)),
        f"{rounded_up(epsilon):g}" if isinstance(epsilon, float) else "∞",
        f"{first['values']['code']:,}" if "values" in first else "–",
        f"{first['bytes_up']:,} / {first['bytes_down']:,}" if "bytes_up" in first else "–",
        with_error([last(row["validation"]) for row in rows]),
        with_error([row["late_mean"] for row in rows if "late_mean" in row]),
        with_error([score["test"] for score in losses]),
        ", ".join(with_error([score["retention"][kind] - known for score in losses]) for kind, known in base.items()),
        *(with_error([score[name] for score in some], 1) for name in ("bleu", "rougeL") for some in texts),
    ]
    return f"| {' | '.join(cells)} |"
