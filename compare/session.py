"""A comparison from planned cells to files: estimate, run with progress, summarise."""

import json
from pathlib import Path
from statistics import mean
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from common.config import ConfigError
from compare.folder import NUMBERS, PAGE, remove_stale
from compare.plan import Cell, Wish
from compare.plots import draw
from compare.runs import Job, Store
from compare.scheduler import Scheduler
from compare.study import Record, runs_missing, runs_of, study
from compare.summary import summarise
from compare.table import markdown
from server_app.terminal import clock

_PROBE_ROUNDS = 2
_HOUR = 3600.0  # rich forgets its pace after 30 s unless told otherwise; a run takes longer


class _Display:
    """The progress bar, and a line for every run that ends."""

    def __init__(self, console: Console, total: int) -> None:
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            speed_estimate_period=_HOUR,
        )
        self._task: TaskID = self.progress.add_task("runs", total=total)
        self._total = total

    def on_record(self, record: Record, found: bool) -> None:
        """Count a run and tell of it, unless it was there already."""
        if found:
            self._total -= 1  # what was there already must not count into the pace
            self.progress.update(self._task, total=self._total)
        else:
            self.progress.advance(self._task)
            self.progress.console.print(_line(record), highlight=False, markup=False)


def compare(
    cells: list[Cell], wish: Wish, command: str, out: Path, jobs: int, *, dry_run: bool = False
) -> dict[str, Any] | None:
    """Run what is not yet done in ``out`` and write ``comparison.json``, ``comparison.md`` and the plots there.

    Returns what is in ``comparison.json``; ``None`` after a dry run. A dry run whose short run fails raises
    ``ConfigError``.
    """
    console = Console()
    store = Store(out / "runs")
    total = sum(runs_of(cell, wish) for cell in cells)
    display = _Display(console, total)
    scheduler = Scheduler(store, jobs, out / "workers", display.on_record)
    try:
        missing = sum(runs_missing(cell, wish, store.find) for cell in cells)
        console.print(f"{total} runs, {total - missing} of them done already", highlight=False)
        if missing:
            said, failed = _estimate(scheduler, cells, missing, jobs)
            if failed and dry_run:
                raise ConfigError(said)
            console.print(said, highlight=False)
        if dry_run:
            return None
        with display.progress:
            outcomes = scheduler.run([study(cell, wish) for cell in cells])
    finally:
        scheduler.close()
    found = summarise(outcomes, wish, command)
    (out / NUMBERS).write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")
    (out / PAGE).write_text(markdown(found))
    remove_stale(out, draw(out, found))
    return found


def _estimate(scheduler: Scheduler, cells: list[Cell], missing: int, jobs: int) -> tuple[str, bool]:
    """How long it will take, by short runs on all workers at once, scaled to all rounds; and whether one failed."""
    private = cells[-1]
    rounds = int(private.flat["num-server-rounds"])
    probe = private.tuning(private.start, 1)
    short = {"num-server-rounds": _PROBE_ROUNDS, "evaluation.every": _PROBE_ROUNDS}
    records = scheduler.measure([Job("probe", "a short run", {**probe.flat, **short})] * jobs)
    failed = [record["error"] for record in records if record["status"] != "done"]
    if failed:
        return f"a short run to measure the time failed: {failed[0]}", True
    pace = max(mean(record["report"]["rounds"]) for record in records)
    fixed = max(record["seconds"] - sum(record["report"]["rounds"]) for record in records)
    seconds = fixed + rounds * pace
    return (
        f"{missing} runs of about {seconds:.0f} s each, {jobs} at a time: about {clock(missing * seconds / jobs)} "
        "(minutes:seconds) at the present load"
    ), False


def _line(record: Record) -> str:
    if record["status"] != "done":
        return f"FAILED {record['label']}: {record['error']}"
    final, seconds = record["report"]["outcome"]["final"], record["seconds"]
    warning = record["report"]["outcome"]["warning"]
    said = f"  WARNING: {warning}" if warning else ""
    return f"{record['label']}: accuracy {final['accuracy']:.3f}, loss {final['loss']:.3f} ({seconds:.0f} s){said}"
