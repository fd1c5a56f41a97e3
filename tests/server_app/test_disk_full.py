"""A disk that is full while a checkpoint is written: the run stops loudly and the last whole checkpoint counts."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from server_app.privacy.ledger import Ledger
from server_app.results import checkpoints
from server_app.results.folder import RunFolder
from tests.support.tiny import Files, run_tiny, tiny_config


@pytest.mark.parametrize("failing", ["tensors", "state", "latest"])
def test_a_full_disk_stops_the_run_which_is_resumed_when_there_is_room_again(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    changes: dict[str, Any] = {"privacy.epsilon": 0.0, "privacy.noise-multiplier": 2.0}
    config = tiny_config(files, tmp_path, changes)
    folder = RunFolder(tmp_path / "run")
    full = OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        save, write = checkpoints.save_file, checkpoints._write_durably

        def save_tensors(tensors: Any, path: Any, *rest: Any) -> None:
            if failing == "tensors" and "round-000002" in str(path):
                Path(path).write_bytes(b"half")
                raise full
            save(tensors, path, *rest)

        def write_text(path: Path, text: str) -> None:
            if (failing == "state" and "round-000002" in str(path)) or (failing == "latest" and text.endswith("2")):
                path.write_text(text[: len(text) // 2], encoding="utf-8")
                raise full
            write(path, text)

        patch.setattr(checkpoints, "save_file", save_tensors)
        patch.setattr(checkpoints, "_write_durably", write_text)
        with pytest.raises(OSError, match="No space left"):
            run_tiny(config)
    before = list(Ledger(folder.ledger).charges)
    assert [Ledger(folder.ledger).rounds_charged(number) for number in (0, 1, 2, 3)] == [1, 1, 1, 0]

    run_tiny(tiny_config(files, tmp_path, changes | {"resume": str(folder.path)}))
    assert list(Ledger(folder.ledger).charges)[: len(before)] == before
    assert Ledger(folder.ledger).rounds_charged(2) == 2, "what was spent twice is charged twice"
    assert json.loads((folder.path / "report.json").read_text())["outcome"]["final"]
