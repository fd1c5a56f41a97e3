"""Which finished run answers which job."""

import json
import math
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from common.config import RunConfig
from tests.support.full_disk import full_disk
from tests.support.tiny import Files, run_tiny, tiny_config
from workbench.compare.runs import Job, Store, execute, failed, run_report


def job(**changes: Any) -> Job:
    keys = {key.replace("__", ".").replace("_", "-"): value for key, value in changes.items()}
    return Job("evaluation", "a run", {**RunConfig().flat(), "privacy.epsilon": math.inf, **keys})


def record(job: Job, **changes: Any) -> dict[str, Any]:
    said = {"key": job.key, "label": job.label, "flat": dict(job.flat), "code": "0"}
    return said | {"status": "done", "seconds": 1.0, "report": {}} | changes


def test_a_run_is_its_configuration_and_not_its_place() -> None:
    assert job().key == job(output__dir="elsewhere").key
    assert job().key == Job("control", "another label", job().flat).key
    assert job().key != Job("control no-update", "a run", job().flat, "no-update").key
    assert len({job().key, job(seed=2).key, job(server__learning_rate=2.0).key, job(codec__size=64).key}) == 4


def test_what_is_done_is_found_and_what_failed_runs_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.find(job()) is None
    store.add(failed(job(), "MemoryError: no"))
    assert store.find(job()) is None
    store.add(record(job()))
    assert store.find(job(output__dir="elsewhere")) == record(job(), flat=job().flat | {"privacy.epsilon": "inf"})
    assert store.find(job(seed=2)) is None


def test_a_record_that_found_no_room_is_named(tmp_path: Path) -> None:
    with full_disk(64), pytest.raises(OSError, match="File too large") as raised:
        Store(tmp_path).add(record(job()))
    assert raised.value.filename.startswith(str(tmp_path))


def test_a_key_that_a_later_version_adds_orphans_no_run_but_a_changed_default_does(tmp_path: Path) -> None:
    store = Store(tmp_path)
    older = dict(job().flat)
    del older["fedlpp.bits"]
    store.add(record(job(), flat=older))
    assert store.find(job()) is not None
    store.add(record(job(), flat=older | {"fedlpp.bits": 7}))
    assert store.find(job()) is None


@pytest.mark.parametrize(
    "torn", ["", '{"key": ', "{}", "null", "[1, 2]", '{"flat": [], "status": "done"}', '{"flat": {}, "status": "done"}']
)
def test_a_file_that_is_no_record_is_no_finished_run(tmp_path: Path, torn: str) -> None:
    store = Store(tmp_path)
    (tmp_path / f"{job().key}.json").write_text(torn)
    assert store.find(job()) is None


def test_a_run_that_raises_is_a_record_of_its_error() -> None:
    found = execute(job(strategy__name="absent", federation__num_clients=1))
    assert (found["status"], found["key"]) == ("failed", job(strategy__name="absent", federation__num_clients=1).key)
    assert 'ConfigError: strategy.name = "absent"' in found["error"]


def test_a_run_of_a_comparison_is_the_run_itself_without_its_plots(files: Files, tmp_path: Path) -> None:
    """Nothing is drawn, and what is reported is what the same keys give by ``run``."""
    config = tiny_config(files, tmp_path, {"strategy.name": "lora", "num-server-rounds": 1})
    with patch("server_app.results.plots._save", side_effect=AssertionError("a plot")):
        report = run_report(config.flat())
    folder = run_tiny(config, plots=True)
    drawn = {path.name for path in folder.path.glob("*.png")}
    assert drawn == {"progress.png", "epsilon.png", "bytes.png"}
    whole = json.loads((folder.path / "report.json").read_text())
    assert report["outcome"]["final"]["loss"] == pytest.approx(whole["outcome"]["final"]["loss"], rel=1e-5)
    assert report["communication"] == whole["communication"]
    assert len(report["rounds"]) == 1
