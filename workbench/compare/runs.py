"""One run of a comparison: its identity, how a worker process executes it, and where its result is kept."""

import hashlib
import json
import math
import multiprocessing
import os
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeGuard

from common.config import RunConfig, Scalar
from common.private_files import private_file
from common.wire.digest import app_digest
from server_app.results.json_lines import finite
from server_app.rounds.controls import Control
from workbench.compare.folder import write_whole
from workbench.version import app_version

_CURVE = ("round", "loss", "accuracy")
_PLACE = ("output.dir", "output.name", "resume")  # where a run is kept says nothing of what it is
_DONE = ("key", "label", "code", "status", "seconds", "report")  # what every finished run's record has


@dataclass(frozen=True)
class Job:
    """One run to be done: what it is for, its whole flat configuration, and what is kept from its model."""

    purpose: str
    label: str
    flat: Mapping[str, Scalar]
    control: Control = "none"

    @property
    def key(self) -> str:
        """Hash of the app's version, the control, and every key (seed included) that differs from its default.

        Keys at their default are left out, so that a key which a later version adds does not orphan what was run
        before it; ``Store`` compares all the keys that both know.
        """
        plain = RunConfig().flat()
        changed = {key: value for key, value in sorted(self.flat.items()) if value != plain[key] and key not in _PLACE}
        control = {"control": self.control} if self.control != "none" else {}
        text = json.dumps([app_version(), changed | control])
        return hashlib.sha256(text.encode()).hexdigest()[:20]


def run_report(flat: Mapping[str, Scalar], control: Control = "none") -> dict[str, Any]:
    """The report of a run with these keys, in this process; its folder is thrown away.

    Added to it: ``rounds``, seconds of every round, and ``curve``, the scores of every evaluated one.
    """
    from server_app.run import run_federation  # noqa: PLC0415
    from workbench.simulation.cohort_grid import grid_for  # noqa: PLC0415 - torch, which the planning process may not need

    with tempfile.TemporaryDirectory() as scratch:
        place = {"output.dir": scratch, "output.name": "run", "federation.max-in-flight": 0}  # nobody to wait for
        config = RunConfig.parse({**flat, **place})
        grid = grid_for(config, config.federation.num_clients)
        folder = run_federation(grid, config, control=control, plots=False)  # nobody would see them
        report: dict[str, Any] = json.loads((folder.path / "report.json").read_text(encoding="utf-8"))
        rows = folder.read_metrics()
        report["rounds"] = [row["seconds"] for row in rows if "seconds" in row]
        report["curve"] = [{key: row[key] for key in _CURVE if key in row} for row in rows if "loss" in row]
    return report


def start_worker(log: str) -> None:
    """Prepare a worker process: one thread, all that it prints goes to a file of its own, and no life of its own."""
    import torch  # noqa: PLC0415

    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    own = Path(f"{log}-{os.getpid()}.log")
    private_file(own)
    handle = os.open(own, os.O_WRONLY | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)


def _end_with_parent() -> None:
    """End this process once the one that started it has: one that is killed cannot stop its workers."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def execute(job: Job) -> dict[str, Any]:
    """Run ``job`` and return its record; an exception becomes a record of status "failed"."""
    started = time.monotonic()
    try:
        report = run_report(job.flat, job.control)
    except Exception as error:  # one run that fails must not end the comparison
        traceback.print_exc()
        return failed(job, f"{type(error).__name__}: {error}")
    return _record(job) | {"status": "done", "seconds": round(time.monotonic() - started, 1), "report": report}


def failed(job: Job, error: str) -> dict[str, Any]:
    """The record of a run that came to no end."""
    return _record(job) | {"status": "failed", "error": error}


def _record(job: Job) -> dict[str, Any]:
    return {"key": job.key, "purpose": job.purpose, "label": job.label, "flat": dict(job.flat), "code": code_digest()}


@lru_cache(maxsize=1)
def code_digest() -> str:
    """Hash of what decides a result: the client's code (as ``app_digest``), the server's and the comparison's."""
    root = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256(app_digest().encode())
    for path in sorted([*(root / "server_app").rglob("*.py"), *(root / "workbench").rglob("*.py")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


class Store:
    """Finished runs: one JSON file each in ``folder``, named by the run's key."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder

    def find(self, job: Job) -> dict[str, Any] | None:
        """The record of a run that is done and was the same in every key that both know; failed ones run again."""
        try:
            record: Any = json.loads((self.folder / f"{job.key}.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        if not _is_record(record):
            return None
        flat = {key: math.inf if value == "inf" else value for key, value in record["flat"].items()}
        same = all(job.flat[key] == flat[key] for key in job.flat.keys() & flat.keys() if key not in _PLACE)
        return record if same and record["status"] == "done" else None

    def add(self, record: Mapping[str, Any]) -> None:
        """Keep a record."""
        text = json.dumps({**record, "flat": finite(record["flat"])}, allow_nan=False) + "\n"
        write_whole(self.folder / f"{record['key']}.json", text)


def _is_record(value: object) -> TypeGuard[dict[str, Any]]:
    """Whether JSON that was read is a record at all: a file that somebody else has changed may be anything."""
    if not isinstance(value, dict) or not isinstance(value.get("flat"), dict):
        return False
    return value.get("status") == "failed" or all(name in value for name in _DONE)
