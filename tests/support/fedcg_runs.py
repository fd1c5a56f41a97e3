"""What the tests of FedCG share: its configurations at this size, and what a run of it says."""

import json
from pathlib import Path
from typing import Any

from flwr.app import Message

from tests.support.grids import TinyGrid
from tests.support.tiny import Files, run_tiny, tiny_config

STEPS = 2
FEDCG: dict[str, Any] = {
    "strategy.name": "fedcg",
    "stage-one.sampling-rate": 1.0,
    "stage-one.private": False,
    "stage-one.learning-rate": 0.1,
    "stage-one.steps": STEPS,
    "codec.size": 16,
}
CONV: dict[str, Any] = {"codec.kind": "conv", "codec.size": 0}
PRIVATE: dict[str, Any] = {"stage-one.private": True}


def report_of(files: Files, folder: Path, changes: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (run_tiny(tiny_config(files, folder, changes)).path / "report.json").read_text(encoding="utf-8")
    )
    return found


def replies_to_stage_one(strategy: Any, grid: TinyGrid) -> list[Message]:
    """What the clients answer when their gradients are collected."""
    strategy.collect(grid)
    return grid.answered
