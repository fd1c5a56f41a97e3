"""What the tests of FedCG share: its configurations at this size, and what a run of it says."""

import json
from pathlib import Path
from typing import Any

from tests.support.tiny import Files, run_tiny, tiny_config

STEPS = 2
FEDCG: dict[str, Any] = {
    "strategy.name": "fedcg",
    "fedcg.sampling-rate": 1.0,
    "fedcg.gradients-per-client": STEPS,
    "prior.steps": 5,
    "prior.batch-size": 4,
    "codec.size": 16,
}
CONV: dict[str, Any] = {"codec.kind": "conv", "codec.depth": 2, "codec.size": 0}
PRIVATE: dict[str, Any] = {"fedcg.private": True}


def report_of(files: Files, folder: Path, changes: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (run_tiny(tiny_config(files, folder, changes)).path / "report.json").read_text(encoding="utf-8")
    )
    return found


def recorded_replies(strategy: Any, grid: Any) -> list[Any]:
    replies: list[Any] = []
    original = grid.answer

    def answer(message: Any) -> Any:
        replies.append(original(message))
        return replies[-1]

    grid.answer = answer
    strategy.collect(grid)
    return replies
