"""Jobs in worker processes: each once, in spite of crashes, and not again after a restart."""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from common.config import RunConfig
from tests.support import fakes
from workbench.compare import scheduler
from workbench.compare.runs import Job, Store

FLAT = RunConfig().flat()
KILLED = """
import os, sys, time
from pathlib import Path
from workbench.compare.runs import Store
from workbench.compare.scheduler import Scheduler
folder = Path(sys.argv[1])
workers = Scheduler(Store(folder / "runs"), 1, folder / "logs", lambda *_: None)
print(workers._workers_now().submit(os.getpid).result(), flush=True)
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def _fake_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "execute", fakes.execute)
    monkeypatch.setattr(scheduler, "start_worker", fakes.start)


def job(what: str, seed: int, marks: Path) -> Job:
    return Job("evaluation", f"{what} {marks}", FLAT | {"seed": seed})


def batches(*wanted: list[Job]) -> Generator[list[Job], list[Any], Any]:
    """A study that asks for these batches, one after the other, and returns all of its records."""
    records = []
    for batch in wanted:
        records += yield batch
    return records


def run(folder: Path, *studies: Any, workers: int = 2) -> tuple[list[Any], list[tuple[str, bool]]]:
    told: list[tuple[str, bool]] = []
    working = scheduler.Scheduler(
        Store(folder / "runs"), workers, folder / "logs", lambda record, found: told.append((record["key"], found))
    )
    outcomes: list[Any] = working.run(list(studies))
    return outcomes, told


def times_run(marks: Path, job: Job) -> int:
    path = marks / job.key
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_records_come_back_in_the_order_of_the_jobs(tmp_path: Path) -> None:
    first = [job("sleep", seed, tmp_path) for seed in (1, 2, 3)]
    second = [job("sleep", seed, tmp_path) for seed in (4, 1)]  # 1 is asked for by both, and run once
    outcomes, told = run(tmp_path, batches(first, second[:1]), batches(second))
    assert [[record["key"] for record in records] for records in outcomes] == [
        [one.key for one in [*first, second[0]]],
        [one.key for one in second],
    ]
    assert [times_run(tmp_path, one) for one in [*first, second[0]]] == [1] * 4
    assert len(told) == 6


def test_a_restart_runs_only_what_is_missing_or_failed(tmp_path: Path) -> None:
    jobs = [job("sleep", 1, tmp_path), job("raise", 2, tmp_path)]
    run(tmp_path, batches(jobs))
    more = job("sleep", 3, tmp_path)
    (records,), told = run(tmp_path, batches([*jobs, more]))
    assert [times_run(tmp_path, one) for one in [*jobs, more]] == [1, 2, 1]
    assert [record["status"] for record in records] == ["done", "failed", "done"]
    assert sorted(found for _, found in told) == [False, False, True]


def test_a_run_that_kills_its_process_is_recorded_and_the_others_are_done(tmp_path: Path) -> None:
    jobs = [job(what, seed, tmp_path) for seed, what in enumerate(("sleep", "die", "sleep", "sleep"), start=1)]
    (records,), _ = run(tmp_path, batches(jobs))
    assert [record["status"] for record in records] == ["done", "failed", "done", "done"]
    assert "its process died" in records[1]["error"]
    assert times_run(tmp_path, jobs[1]) == 2


def test_a_worker_that_dies_while_time_is_measured_fails_that_and_nothing_later(tmp_path: Path) -> None:
    working = scheduler.Scheduler(Store(tmp_path / "runs"), 2, tmp_path / "logs", lambda *_: None)
    measured = working.measure([job("die", 1, tmp_path)] * 2)
    assert [record["error"] for record in measured] == ["its process died (out of memory? see workers/)"] * 2
    ((record,),) = working.run([batches([job("sleep", 2, tmp_path)])])
    assert record["status"] == "done"


def test_an_interrupt_waits_for_no_run_that_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_future: Future[Any]) -> None:
        raise KeyboardInterrupt

    working = scheduler.Scheduler(Store(tmp_path / "runs"), 1, tmp_path / "logs", lambda *_: None)
    working.measure([job("sleep", 1, tmp_path)])  # the worker has started
    monkeypatch.setattr(Future, "result", interrupt)
    with pytest.raises(KeyboardInterrupt):
        working.measure([job("long", 2, tmp_path)])
    began = time.monotonic()
    working.close()
    assert time.monotonic() - began < 15


def test_workers_end_with_a_comparison_that_is_killed(tmp_path: Path) -> None:
    """Whatever ends it: a closed terminal, a scheduler's time limit, the system short of memory."""
    started = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    with started:
        assert started.stdout is not None
        worker = os.pidfd_open(int(started.stdout.readline()))
        started.kill()
    try:
        ended, _, _ = select.select([worker], [], [], 20)
        if not ended:
            signal.pidfd_send_signal(worker, signal.SIGKILL)
    finally:
        os.close(worker)
    assert ended


def test_a_worker_that_died_before_the_next_job_is_handed_over_stops_nothing(tmp_path: Path) -> None:
    """The pool can break between two looks at it: then handing over raises, where else only the futures do."""
    jobs = [job(what, seed, tmp_path) for seed, what in enumerate(("sleep", "die-late", "sleep"), start=1)]

    def wait_for_the_death(record: Any, _found: bool) -> None:
        pool, latest = working._pool, time.monotonic() + 10  # nothing dies any more if both were under way when one did
        while record["key"] == jobs[0].key and pool is not None and not pool._broken and time.monotonic() < latest:
            time.sleep(0.01)

    working = scheduler.Scheduler(Store(tmp_path / "runs"), 2, tmp_path / "logs", wait_for_the_death)
    (records,) = working.run([batches(jobs)])
    assert [record["status"] for record in records] == ["done", "failed", "done"]
    assert times_run(tmp_path, jobs[1]) == 2


def test_after_its_time_no_run_is_started_and_those_under_way_are_kept(tmp_path: Path) -> None:
    first, later = job("sleep", 1, tmp_path), job("sleep", 2, tmp_path)
    asked = iter([False])
    working = scheduler.Scheduler(
        Store(tmp_path / "runs"), 1, tmp_path / "logs", lambda *_: None, lambda: next(asked, True)
    )
    done, left = working.run([batches([first]), batches([later])])
    assert [record["status"] for record in done] == ["done"]  # type: ignore[union-attr]
    assert left is None
    assert [times_run(tmp_path, one) for one in (first, later)] == [1, 0]
