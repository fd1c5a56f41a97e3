"""A results folder as an interrupted run leaves it, with the smallest files that pass for a checkpoint."""

import json
from pathlib import Path
from typing import Any

from server_app.results.checkpoint_files import CLIENTS_ARE, LATEST, STATE, TENSORS

LAST = "round-000003"
STATE_KEYS = {
    **{"round": 3, "failed-in-a-row": 0, "diverged": "", "base-loss": 1.0, "best": None, "prior": {}, "stage-one": {}},
    **{"codec": {}, "elapsed": 1.0, "ledger-head": "", "clients": 10},
}


def write_checkpoint(run: Path) -> Path:
    """The folder of the last checkpoint of ``run``."""
    folder = run / "checkpoint" / LAST
    folder.mkdir(parents=True)
    (run / "checkpoint" / LATEST).write_text(LAST, encoding="utf-8")
    (folder / STATE).write_text(json.dumps(STATE_KEYS), encoding="utf-8")
    header = json.dumps({"adapter": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    (folder / TENSORS).write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    return folder


def write_interrupted(run: Path) -> Path:
    """The same with the configuration of the run."""
    write_checkpoint(run)
    (run / "config.toml").write_text('seed = 77\n[output]\ndir = "elsewhere"\n', encoding="utf-8")
    return run


def say_of_clients(run: Path, known: str) -> None:
    """Let the last checkpoint say what the clients are; ``""``: nothing, as that of an earlier version."""
    path = run / "checkpoint" / (run / "checkpoint" / LATEST).read_text(encoding="utf-8") / STATE
    state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    state.pop(CLIENTS_ARE, None)
    path.write_text(json.dumps(state | ({CLIENTS_ARE: known} if known else {})), encoding="utf-8")
