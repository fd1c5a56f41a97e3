"""Workers of a comparison on a clock of their own."""

from common.config import RunConfig
from workbench.compare.plan import Cell
from workbench.compare.runs import Job
from workbench.compare.scheduler import Scheduler
from workbench.compare.spec import Entry
from workbench.compare.study import Record

FLAT = {**RunConfig().flat(), "data.task": "elicitation", "num-server-rounds": 10}
CELL = Cell("elicitation", Entry("lora", "lora"), 2.0, FLAT, 1.0)


class Clock:
    """Time that passes only when a worker says so."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


class TimedWorkers(Scheduler):
    """Workers whose first run takes 40 s to start beside the 1 s of a short run and its two rounds of .25 s."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.measured: list[list[Job]] = []

    def measure(self, jobs: list[Job]) -> list[Record]:
        seconds = 1.0 if self.measured else 41.0
        self.measured.append(jobs)
        self.clock.now += seconds
        return [{"status": "done", "seconds": seconds, "report": {"rounds": [0.25, 0.25]}} for _ in jobs]
