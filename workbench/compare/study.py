"""One cell of a comparison from tuning to results, as a generator: it yields jobs and is sent their records."""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

from server_app.rounds.controls import Control
from workbench.compare.plan import Cell
from workbench.compare.runs import Job
from workbench.compare.spec import ComparisonSpec
from workbench.compare.tuning import Score, StepSearch

Record = dict[str, Any]
Batch = list[Job]


@dataclass
class Outcome:
    """What became of a cell: its search, and the records of every run by control ("none": the results)."""

    cell: Cell
    search: StepSearch
    trials: dict[float, list[Record]] = field(default_factory=dict)
    runs: dict[str, list[Record]] = field(default_factory=dict)

    @property
    def records(self) -> Iterator[Record]:
        """Every record, tuning first."""
        for group in (self.trials, self.runs):
            for records in group.values():
                yield from records


def study(cell: Cell, spec: ComparisonSpec) -> Generator[Batch, list[Record], Outcome]:
    """Tune the step on public examples, then run every evaluated seed and every control with it."""
    outcome = Outcome(cell, StepSearch(cell.start, spec.trials))
    numbers = range(1, spec.tuning_seeds + 1)
    while steps := outcome.search.next():
        records = yield [cell.tuning(step, number) for step in steps for number in numbers]
        for place, step in enumerate(steps):
            mine = records[place * len(numbers) : (place + 1) * len(numbers)]
            outcome.trials[step] = mine
            outcome.search.tell(step, score_of(mine))
    seeds = range(1, spec.seeds + 1)
    kinds: tuple[Control, ...] = ("none", *cell.controls)
    records = yield [cell.evaluation(outcome.search.best, seed, kind) for kind in kinds for seed in seeds]
    for place, kind in enumerate(kinds):
        outcome.runs[kind] = records[place * len(seeds) : (place + 1) * len(seeds)]
    return outcome


def runs_of(cell: Cell, spec: ComparisonSpec) -> int:
    """How many runs a study takes, unless its search ends before its last trial."""
    return spec.trials * spec.tuning_seeds + spec.seeds * (1 + len(cell.controls))


def count_runs(cell: Cell, spec: ComparisonSpec, find: Callable[[Job], Record | None]) -> tuple[int, int]:
    """How many runs a study takes and how many of them are still to be done, when ``find`` answers for those that are.

    Both are upper bounds while runs are missing: the search may end before its last trial.
    """
    driven = study(cell, spec)
    batch, done = next(driven), 0
    while True:
        found = [record for record in map(find, batch) if record is not None]
        done += len(found)
        if len(found) < len(batch):
            return runs_of(cell, spec), runs_of(cell, spec) - done
        try:
            batch = driven.send(found)
        except StopIteration:
            return done, 0


def score_of(records: list[Record]) -> Score | None:
    """The mean score of the runs of a trial that came to an end; ``None`` when none did.

    A run that fails says nothing of its step (an empty stage 1, a process that was killed; one that diverges does not
    fail), and must not decide against it. The row says how many were left out.
    """
    done = [record["report"] for record in records if record["status"] == "done"]
    return mean_score(done) if done else None


def mean_score(reports: list[dict[str, Any]]) -> Score:
    """What the reports of a trial's runs say of its step."""
    finals = [report["outcome"]["final"] for report in reports]
    return Score(mean(final.get("accuracy", 0.0) for final in finals), -mean(final["loss"] for final in finals))
