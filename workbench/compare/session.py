"""A comparison from planned cells to files: estimate, run with progress, summarize."""

import json
import math
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from common.config import ConfigError
from common.counts import count
from server_app.errors import CommandError
from server_app.results.naming import naming
from server_app.results.tracking import watched
from server_app.results.units import clock, harmless
from workbench.compare.estimate import estimate_time
from workbench.compare.folder import NUMBERS, PAGE, remove_stale, write_whole
from workbench.compare.plan import Cell
from workbench.compare.plots import draw
from workbench.compare.runs import Store
from workbench.compare.scheduler import Scheduler
from workbench.compare.spec import ComparisonSpec
from workbench.compare.study import Batch, Outcome, Record, count_runs, study
from workbench.compare.summary import summarize
from workbench.compare.table import markdown

_HOUR = 3600.0


class _Display:
    """The progress bar, and a line for every run that ends."""

    def __init__(self, console: Console, total: int) -> None:
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
        )
        self._task: TaskID = self.progress.add_task("runs", total=total, start=False, left="")
        self._total, self._done = total, 0
        self._started = time.monotonic()

    def begin(self) -> None:
        """Reckon time from now on: measuring and the start of the workers tell nothing of the pace."""
        self.progress.start_task(self._task)
        self._started = time.monotonic()

    def leave_out(self, runs: int) -> None:
        """Expect so many runs less."""
        self._total -= runs
        self.progress.update(self._task, total=self._total)

    def on_record(self, record: Record, found: bool) -> None:
        """Count a run and tell of it, unless it was there already."""
        if found:
            self.leave_out(1)  # what was there already must not count into the pace
        else:
            self.progress.advance(self._task)
            self._done += 1
            left = self._left()
            self.progress.update(self._task, left=left)
            say(self.progress.console, f"{self._done} of {self._total}, {left}:  {_line(record)}")

    def _left(self) -> str:
        """The time left at the pace since the start; rich takes two runs that end together for all the pace."""
        missing = max(0, self._total - self._done)
        return f"about {clock((time.monotonic() - self._started) / self._done * missing)} left"


def say(console: Console, text: str) -> None:
    """Print a line as it is: a program that reads it needs it whole."""
    console.print(harmless(text), highlight=False, markup=False, soft_wrap=True)


class OutOfTime(CommandError):
    """The time that was given is over before anything could be written; what was run is kept."""


def compare(
    cells: list[Cell],
    spec: ComparisonSpec,
    command: str,
    out: Path,
    jobs: int,
    *,
    dry_run: bool = False,
    budget_hours: float = 0.0,
) -> dict[str, Any] | None:
    """Run what is not yet done in ``out`` and write ``comparison.json``, ``comparison.md`` and the plots there.

    Returns what is in ``comparison.json``; ``None`` after a dry run. A dry run whose short run fails raises
    ``ConfigError``. After ``budget_hours`` (0: no end) no run is started: the rows that are done are written, the
    others named under ``unfinished``; ``OutOfTime`` where none is. The hours begin with the first run, so that each
    call does some of them however long measuring takes.
    """
    end = math.inf
    console = Console()
    store = Store(out / "runs")
    counts = [count_runs(cell, spec, store.find) for cell in cells]
    totals, left = ([*numbers] for numbers in zip(*counts, strict=True))
    total, missing = sum(totals), sum(left)
    display = _Display(console, total)
    scheduler = Scheduler(store, jobs, out / "workers", display.on_record, lambda: time.monotonic() > end)
    try:
        say(console, f"{count(total, 'run')}, {total - missing} of them done already")
        if missing:
            say(console, "measuring how long a run takes, by short ones")
            with watched("measuring"):
                estimate, failed = estimate_time(scheduler, cells, left, jobs, afresh=dry_run)
            if failed and dry_run:
                raise ConfigError(estimate)
            say(console, estimate)
        if dry_run:
            return None
        if budget_hours:
            end = time.monotonic() + budget_hours * _HOUR
        with display.progress:
            display.begin()
            studies = zip(cells, counts, strict=True)
            ended = scheduler.run([_counted(cell, spec, runs, display) for cell, (runs, _) in studies])
    finally:
        scheduler.close()
    outcomes = [outcome for outcome in ended if outcome is not None]
    if not outcomes:
        raise OutOfTime(f"--budget-hours {budget_hours:g} are over and no row is done yet; the same command goes on")
    found = summarize(outcomes, spec, command, cells)
    with naming(out):
        write_whole(out / NUMBERS, json.dumps(found, indent=1, allow_nan=False) + "\n")
        write_whole(out / PAGE, markdown(found))
        remove_stale(out, draw(out, found))
    return found


def _counted(
    cell: Cell, spec: ComparisonSpec, expected: int, display: _Display
) -> Generator[Batch, list[Record], Outcome]:
    """A study that tells ``display`` at its end of runs that were expected and not needed."""
    outcome = yield from study(cell, spec)
    display.leave_out(expected - len(list(outcome.records)))
    return outcome


def _line(record: Record) -> str:
    if record["status"] != "done":
        return f"FAILED {record['label']}: {record['error']}"
    final, seconds = record["report"]["outcome"]["final"], record["seconds"]
    warning = record["report"]["outcome"]["warning"]
    said = f"  WARNING: {warning}" if warning else ""
    accuracy = f"accuracy {final['accuracy']:.3f}, " if "accuracy" in final else ""
    return f"{record['label']}: {accuracy}loss {final['loss']:.3f} ({seconds:.0f} s){said}"
