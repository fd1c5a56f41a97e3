"""How long a comparison is said to take."""

import pytest

from tests.support.timed_workers import CELL, FLAT, Clock, TimedWorkers
from workbench.compare.estimate import estimate_time
from workbench.compare.plan import Cell
from workbench.compare.runs import Job
from workbench.compare.spec import Entry
from workbench.compare.study import Record


@pytest.mark.parametrize(("afresh", "said"), [(False, "about 0:30"), (True, "after 40 s to start: about 1:10")])
def test_the_start_of_the_workers_is_counted_once_and_not_for_every_run(clock: Clock, afresh: bool, said: str) -> None:
    """20 runs of .5 s + 10 rounds of .25 s, two at a time, are 30 s; two workers start at the same time."""
    fake = TimedWorkers(clock)
    text, failed = estimate_time(fake, [CELL], [20], 2, afresh=afresh)
    assert not failed
    assert text.startswith("20 runs of about 3.0 s each, 2 at a time")
    assert said in text
    assert [len(jobs) for jobs in fake.measured] == [2, 2]
    assert all(job.flat["num-server-rounds"] == 2 for jobs in fake.measured for job in jobs)


def test_every_strategy_is_measured_since_one_may_take_longer_than_all_others(clock: Clock) -> None:
    """20 runs of 3 s of ``lora`` and 10 of 3 s + 90 s of ``fedcg``, two at a time, are 495 s; a done row takes none."""

    class Mixed(TimedWorkers):
        def measure(self, jobs: list[Job]) -> list[Record]:
            return [
                record | {"seconds": record["seconds"] + 90.0 * (job.flat["strategy.name"] == "fedcg")}
                for record, job in zip(super().measure(jobs), jobs, strict=True)
            ]

    cells = [
        Cell("elicitation", Entry(name, name), epsilon, {**FLAT, "strategy.name": name}, 1.0)
        for epsilon in (1.0, 2.0)
        for name in ("dr-encoder", "fedcg", "lora")
    ]
    fake = Mixed(clock)
    text, failed = estimate_time(fake, cells, [0, 5, 10, 0, 5, 10], 2, afresh=False)
    assert not failed
    assert text.startswith(
        "30 runs of about 3.0 to 93.0 s each (elicitation, fedcg the slowest), 2 at a time: about 8:15 "
    )
    assert [[job.flat["strategy.name"] for job in jobs] for jobs in fake.measured] == [["lora"] * 2] * 2 + [["fedcg"]]
