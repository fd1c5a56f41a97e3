"""Runs that take no time, for worker processes: what a job does stands in its label."""

import os
import time
from pathlib import Path
from typing import Any

from workbench.compare.runs import Job, failed


def start(_log: str) -> None:
    """Nothing to prepare."""


def execute(job: Job) -> dict[str, Any]:
    what, _, marks = job.label.partition(" ")
    with (Path(marks) / job.key).open("a", encoding="utf-8") as mark:
        mark.write("run\n")
    if what == "die-late":  # after the jobs that began with it
        time.sleep(1)
    if what in ("die", "die-late"):
        os._exit(9)
    if what == "long":
        time.sleep(30)
    if what == "raise":
        return failed(job, "ValueError: as asked")
    time.sleep(0.05)
    done: dict[str, Any] = {"key": job.key, "label": job.label, "flat": dict(job.flat), "code": "0", "status": "done"}
    return done | {"seconds": 0.05, "report": {}}
