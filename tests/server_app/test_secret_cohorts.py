"""Cohorts that a copy of a run's files would tell."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from client_app.app import app as client_app
from common.config import RunConfig
from server_app.strategies.base import FederatedAdapter
from tests.support.false_alarms import statistical
from tests.support.killed_runs import REPEATABLE, killed_after
from tests.support.tiny import Files, run_tiny, tiny_config
from workbench.simulation.in_process import InProcessGrid


@statistical(4 * 2.0**-64, "system")
def test_a_copy_of_an_interrupted_run_tells_nothing_of_its_cohorts(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two copies go on from one folder: with a key in it they would ask the same secret cohorts, round for round."""
    changes = {
        **REPEATABLE, "output.name": "run", "privacy.sampling-rate": 0.5,
        "num-server-rounds": 3, "strategy.name": "lora", "federation.num-clients": 64,
        "federation.max-failed-rounds": 9,  # too little data for so many, which does not matter here
    }  # fmt: skip
    secret = tiny_config(files, tmp_path, changes)
    folder = killed_after(secret, 1, monkeypatch, grid=InProcessGrid(client_app, secret.flat(), 64))
    shutil.copytree(folder.path, tmp_path / "copy")
    asked: dict[str, list[list[int]]] = {"run": [], "copy": []}
    original = FederatedAdapter.draw_cohort
    for name, cohorts in asked.items():

        def draw(strategy: FederatedAdapter, *args: Any, seen: list[list[int]] = cohorts) -> list[int]:
            seen.append(original(strategy, *args))
            return seen[-1]

        monkeypatch.setattr(FederatedAdapter, "draw_cohort", draw)
        again = RunConfig.parse(secret.flat() | {"output.name": name, "resume": str(tmp_path / name)})
        run_tiny(again, InProcessGrid(client_app, again.flat(), 64))
    assert [len(cohorts) for cohorts in asked.values()] == [2, 2]
    assert all(one != other for one, other in zip(asked["run"], asked["copy"], strict=True))
