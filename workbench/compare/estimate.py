"""How long a comparison will take, by short runs of every strategy."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from common.counts import count
from server_app.results.units import clock
from workbench.compare.plan import Cell
from workbench.compare.runs import Job
from workbench.compare.scheduler import Scheduler
from workbench.compare.study import Record

_PROBE_ROUNDS = 2


@dataclass(frozen=True)
class _Kind:
    """The rows of one strategy on one task, whose runs take the same time: a short run of theirs, and all that miss."""

    label: str
    probe: Job
    rounds: int
    missing: int

    @classmethod
    def of(cls, cell: Cell, missing: int) -> "_Kind":
        short = {"num-server-rounds": _PROBE_ROUNDS, "evaluation.every": _PROBE_ROUNDS}
        job = Job("probe", "a short run", {**cell.tuning(cell.start, 1).flat, **short})
        return cls(f"{cell.task}, {cell.entry.label}", job, int(cell.flat["num-server-rounds"]), missing)

    def seconds(self, records: Sequence[Record]) -> float:
        """How long a whole run takes, from records of the short one: the slowest counts."""
        pace = max(mean(record["report"]["rounds"]) for record in records)
        fixed = max(record["seconds"] - sum(record["report"]["rounds"]) for record in records)
        return float(fixed + self.rounds * pace)


def _kinds(cells: Sequence[Cell], missing: Sequence[int]) -> list[_Kind]:
    """What is still to be measured, by task and strategy."""
    rows: dict[tuple[str, str], list[tuple[Cell, int]]] = {}
    for cell, number in zip(cells, missing, strict=True):
        if number:
            rows.setdefault((cell.task, cell.entry.label), []).append((cell, number))
    return [_Kind.of(found[0][0], sum(number for _, number in found)) for found in rows.values()]


class _ProbeFailed(Exception):
    """A short run came to no end; the text is its error."""


def _measured(scheduler: Scheduler, probes: list[Job]) -> tuple[list[Record], float]:
    """Records of short runs at once, and the seconds of all together."""
    began = time.monotonic()
    records = scheduler.measure(probes) if probes else []
    for record in records:
        if record["status"] != "done":
            raise _ProbeFailed(record["error"])
    return records, time.monotonic() - began


def estimate_time(
    scheduler: Scheduler, cells: list[Cell], missing: list[int], jobs: int, *, afresh: bool
) -> tuple[str, bool]:
    """How long it will take, by short runs of every strategy, scaled to all rounds; and whether one failed.

    A worker's first run has its start in it (imports, the model), which no later one has: the pace is that of a second.
    ``missing``: runs of each cell. ``afresh``: what is estimated begins with new workers, so the start counts too,
    once, for they start together.
    """
    kinds = _kinds(cells, missing)
    *others, last = kinds
    try:
        _, first = _measured(scheduler, [last.probe] * jobs)
        again, second = _measured(scheduler, [last.probe] * jobs)
        rest, _ = _measured(scheduler, [kind.probe for kind in others])
    except _ProbeFailed as error:
        return f"a short run to measure the time failed: {error}", True
    seconds = [kind.seconds([record]) for kind, record in zip(others, rest, strict=True)] + [last.seconds(again)]
    start = max(0.0, first - second) if afresh else 0.0
    left = sum(kind.missing * each for kind, each in zip(kinds, seconds, strict=True)) / jobs + start
    each = " to ".join(dict.fromkeys(f"{extreme:.1f}" for extreme in (min(seconds), max(seconds))))
    slowest = f" ({kinds[seconds.index(max(seconds))].label} the slowest)" if others else ""
    beginning = f", after {start:.0f} s to start" if afresh else ""
    return (
        f"{count(sum(missing), 'run')} of about {each} s each{slowest}, {jobs} at a time{beginning}: about "
        f"{clock(left)} (minutes:seconds) at the present load"
    ), False
