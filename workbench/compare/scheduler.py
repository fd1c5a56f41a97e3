"""Runs the jobs of many studies in worker processes, in the order of the studies, each job once."""

import heapq
import itertools
import multiprocessing
from collections.abc import Callable, Generator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

from workbench.compare.runs import Job, Store, execute, failed, start_worker
from workbench.compare.study import Batch, Outcome, Record

_DIED = "its process died (out of memory? see workers/)"
_Study = Generator[Batch, list[Record], Outcome]


@dataclass
class _Open:
    """A study that waits for the records of its batch."""

    study: _Study
    batch: Batch = field(default_factory=list)
    records: dict[str, Record] = field(default_factory=dict)

    @property
    def answered(self) -> bool:
        return all(job.key in self.records for job in self.batch)


class Scheduler:
    """``workers`` processes and the store of finished runs.

    A run that raises is recorded as failed. When a worker *dies*, the runs that were under way are tried again one at a
    time, so that the one that kills its process is known: it is recorded as failed, the others go on.

    Args:
        store: where records are found and kept.
        workers: processes.
        logs: folder for what the processes print.
        on_record: told of every record, and whether it was found rather than run.
        time_is_up: asked before a run is started; once true, those under way end and no other begins.

    """

    def __init__(
        self,
        store: Store,
        workers: int,
        logs: Path,
        on_record: Callable[[Record, bool], None],
        time_is_up: Callable[[], bool] = lambda: False,
    ) -> None:
        logs.mkdir(parents=True, exist_ok=True)
        self._store, self._workers, self._logs, self._on_record = store, workers, logs, on_record
        self._time_is_up = time_is_up
        self._queue: list[tuple[int, int, Job]] = []
        self._suspects: list[Job] = []
        self._running: dict[Future[Record], Job] = {}
        self._waiting: dict[str, list[int]] = {}
        self._counter = itertools.count()
        self._open: list[_Open] = []
        self._outcomes: dict[int, Outcome] = {}
        self._pool: ProcessPoolExecutor | None = None

    def run(self, studies: list[_Study]) -> list[Outcome | None]:
        """Drive every study to its end; the outcomes in their order, ``None`` where the time did not suffice."""
        self._open = [_Open(study) for study in studies]
        try:
            for index in range(len(studies)):
                self._advance(index)
            while self._queue or self._suspects or self._running:
                if not self._time_is_up():
                    self._submit()
                elif not self._running:
                    break
                done, _ = wait(self._running, return_when=FIRST_COMPLETED)
                self._gather(done)
        finally:
            self.close()
        return [self._outcomes.get(index) for index in range(len(studies))]

    def measure(self, jobs: list[Job]) -> list[Record]:
        """Run jobs at once and keep nothing of them: for an estimate of time. A worker that dies fails all of them."""
        pool = self._workers_now()
        self._running.update({pool.submit(execute, job): job for job in jobs})
        try:
            records = [future.result() for future in self._running]
        except BrokenProcessPool:
            records, self._pool = [failed(job, _DIED) for job in jobs], None
        self._running.clear()
        return records

    def close(self) -> None:
        """Stop the worker processes, whatever they are doing."""
        if self._pool is not None:
            self._pool.shutdown(wait=not self._running, cancel_futures=True)
            for child in multiprocessing.active_children() if self._running else ():
                child.terminate()
            self._pool = None

    def _workers_now(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self._workers,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=start_worker,
                initargs=(str(self._logs / "worker"),),
            )
        return self._pool

    def _advance(self, index: int) -> None:
        """Send a study the records of its batch and queue the next one, as long as the store answers all of it."""
        entry = self._open[index]
        while entry.answered:
            records = [entry.records[job.key] for job in entry.batch]
            try:
                entry.batch = entry.study.send(records) if entry.batch else next(entry.study)
            except StopIteration as end:
                self._outcomes[index] = end.value
                return
            entry.records = {}
            for job in entry.batch:
                self._look_up(index, entry, job)

    def _look_up(self, index: int, entry: _Open, job: Job) -> None:
        found = self._store.find(job)
        if found is not None:
            entry.records[job.key] = found
            self._on_record(found, True)
        elif job.key in self._waiting:  # another study asked for the same run
            self._waiting[job.key].append(index)
        else:
            self._waiting[job.key] = [index]
            heapq.heappush(self._queue, (index, next(self._counter), job))

    def _submit(self) -> None:
        if self._suspects:
            if not self._running:
                self._start(self._suspects[0])
            return
        while self._queue and len(self._running) < self._workers and self._start(self._queue[0][2]):
            heapq.heappop(self._queue)

    def _start(self, job: Job) -> bool:
        """Hand a job to a worker; False when the pool broke since the last look (its futures say who was under way)."""
        pool = self._workers_now()
        try:
            self._running[pool.submit(execute, job)] = job
        except BrokenProcessPool:
            self._pool = None
            return False
        return True

    def _gather(self, done: set[Future[Record]]) -> None:
        for future in done:
            job = self._running.pop(future)
            error = future.exception()
            if error is None:
                self._suspects = [suspect for suspect in self._suspects if suspect is not job]
                self._finish(job, future.result())
            elif not isinstance(error, BrokenProcessPool):
                raise error
            elif job in self._suspects:
                self._suspects.remove(job)
                self._finish(job, failed(job, _DIED))
                self._pool = None
            else:
                self._suspects.append(job)
                self._pool = None

    def _finish(self, job: Job, record: Record) -> None:
        self._store.add(record)
        for index in self._waiting.pop(job.key):
            self._on_record(record, False)
            self._open[index].records[job.key] = record
            self._advance(index)
