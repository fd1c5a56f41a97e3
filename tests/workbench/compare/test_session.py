"""What is said before and during a comparison of how many runs there are and how long they take."""

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.support.full_disk import full_disk
from tests.support.timed_workers import CELL, Clock, TimedWorkers
from workbench.compare import session
from workbench.compare.folder import NUMBERS, PAGE
from workbench.compare.runs import Job
from workbench.compare.spec import ComparisonSpec
from workbench.compare.study import Outcome, Record, runs_of

OUTCOME: dict[str, Any] = {"final": {"accuracy": 0.9, "loss": 0.2}, "warning": ""}
SPEC = ComparisonSpec(["lora"], [2.0], ["elicitation"], seeds=2, trials=3, tuning_seeds=1)


class Done(TimedWorkers):
    """Workers that are done at once."""

    def __init__(self, clock: Clock, *_: Any) -> None:
        super().__init__(clock)

    def run(self, studies: list[Any]) -> list[Any]:
        return [OUTCOME for _ in studies]

    def close(self) -> None:
        """Nothing was started."""


class Slow(TimedWorkers):
    """Workers that take minutes to measure, and so long that no row is done within a budget."""

    def __init__(self, clock: Clock, told: Any, over: Callable[[], bool]) -> None:
        super().__init__(clock)
        self.display, self.over, self.ran = told.__self__, over, 0

    def measure(self, jobs: list[Job]) -> list[Record]:
        self.clock.now += 300.0
        return super().measure(jobs)

    def run(self, studies: list[Any]) -> list[Outcome | None]:
        assert self.display._started == self.clock.now, "the pace of runs is theirs alone"
        while not self.over():
            self.ran += 1
            self.clock.now += 100.0
        return [None for _ in studies]

    def close(self) -> None:
        """Nothing was started."""


def test_measuring_takes_nothing_of_the_hours_and_nothing_done_is_told_by_code_3(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The same command would else measure again and again, and never run anything."""
    slow: list[Slow] = []

    def scheduler(_store: Any, _jobs: int, _logs: Path, told: Any, over: Callable[[], bool]) -> Slow:
        slow.append(Slow(clock, told, over))
        return slow[-1]

    monkeypatch.setattr(session, "Scheduler", scheduler)
    with pytest.raises(session.OutOfTime, match=r"--budget-hours 0\.1 are over .* the same command goes on"):
        session.compare([CELL], SPEC, "", tmp_path, 1, budget_hours=0.1)
    assert slow[0].ran == 4, "360 s of runs that take 100 s each"


@pytest.mark.parametrize(("numbers", "page"), [("x" * 100, ""), ("", "x" * 100)])
def test_what_does_not_fit_on_the_disk_leaves_what_was_there(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, numbers: str, page: str
) -> None:
    """Half of the numbers was no file of a comparison, and the next one was refused to write over it."""
    monkeypatch.setattr(session, "Scheduler", lambda *_: Done(clock))
    monkeypatch.setattr(session, "summarize", lambda *_: numbers)
    monkeypatch.setattr(session, "markdown", lambda _: page)
    for name in (NUMBERS, PAGE):
        (tmp_path / name).write_text("before", encoding="utf-8")
    with full_disk(64), pytest.raises(OSError, match="File too large"):
        session.compare([CELL], SPEC, "", tmp_path, 1)
    torn = NUMBERS if numbers else PAGE
    assert (tmp_path / torn).read_text(encoding="utf-8") == "before"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_runs_that_a_search_does_not_need_are_no_longer_waited_for() -> None:
    spec = ComparisonSpec(["lora"], [2.0], ["elicitation"], seeds=2, trials=40, tuning_seeds=1)
    expected = runs_of(CELL, spec)
    display = session._Display(Console(quiet=True), expected)
    driven = session._counted(CELL, spec, expected, display)
    batch, runs = next(driven), 0
    while True:
        runs += len(batch)
        try:
            batch = driven.send([scored(job) for job in batch])
        except StopIteration:
            break
    (bar,) = display.progress.tasks
    assert bar.total == runs < expected


def scored(job: Job) -> Record:
    """A run's record, best at a step of 1.07."""
    accuracy = -abs(math.log(float(job.flat["server.learning-rate"]) / 1.07))
    return {"status": "done", "report": {"outcome": {"final": {"accuracy": accuracy, "loss": 0.0}}}}


def test_a_line_of_a_run_is_whole_in_a_pipe_and_tells_how_far_it_is(clock: Clock) -> None:
    """Programs that read it look for the seconds at its end; rich would break it at 80 columns."""
    page = io.StringIO()
    display = session._Display(Console(file=page, width=80), 3)
    outcome = OUTCOME | {"warning": "x" * 100}
    record = {"status": "done", "label": "l" * 70, "seconds": 16.0, "report": {"outcome": outcome}}
    clock.now += 300.0  # measuring
    display.begin()
    clock.now += 30.0
    display.on_record(record, False)
    (line,) = page.getvalue().splitlines()
    assert line.startswith("1 of 3, about 1:00 left:  lll")
    assert line.endswith(f"(16 s)  WARNING: {'x' * 100}")


def test_the_bar_and_the_lines_tell_the_same_time_left_though_runs_end_in_pairs(clock: Clock) -> None:
    """Two jobs at a time end within seconds of each other, which is not the pace."""
    page = io.StringIO()
    display = session._Display(Console(file=page, width=80), 10)
    record = {"status": "done", "label": "l", "seconds": 100.0, "report": {"outcome": OUTCOME}}
    display.begin()
    clock.now += 100.0
    display.on_record(record, False)
    clock.now += 1.0
    display.on_record(record, False)
    assert page.getvalue().splitlines()[1].startswith("2 of 10, about 6:44 left:  l")
    display.progress.console.print(display.progress.get_renderable())
    assert page.getvalue().rstrip().endswith("about 6:44 left")
