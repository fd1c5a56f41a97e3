"""A disk that is full while a checkpoint is written: the run stops loudly and the last whole checkpoint counts."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from server_app.privacy.ledger import Ledger
from server_app.results import checkpoints
from server_app.results.folder import RunFolder
from server_app.results.naming import naming
from tests.support.full_disk import full_disk
from tests.support.tiny import Files, run_tiny, tiny_config

TENSORS = {"a": torch.zeros(10_000)}


@pytest.mark.parametrize("failing", ["tensors", "state", "latest"])
def test_a_full_disk_stops_the_run_which_is_resumed_when_there_is_room_again(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    changes: dict[str, Any] = {"privacy.epsilon": 0.0, "privacy.noise-multiplier": 2.0}
    config = tiny_config(files, tmp_path, changes)
    folder = RunFolder(tmp_path / "run")
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

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
        with pytest.raises(OSError, match="No space left") as raised:
            run_tiny(config)
        assert raised.value.filename == str(folder.path), "the system names no file where a write fails"
    before = list(Ledger(folder.ledger).charges)
    assert [Ledger(folder.ledger).rounds_charged(number) for number in (0, 1, 2, 3)] == [1, 1, 1, 0]

    run_tiny(tiny_config(files, tmp_path, changes | {"resume": str(folder.path)}))
    assert list(Ledger(folder.ledger).charges)[: len(before)] == before
    assert Ledger(folder.ledger).rounds_charged(2) == 2, "what was spent twice is charged twice"
    assert json.loads((folder.path / "report.json").read_text())["outcome"]["final"]


@pytest.mark.parametrize("write", [lambda path: path.write_text("x" * 10_000), lambda path: save_file(TENSORS, path)])
def test_a_file_that_could_not_be_written_whole_is_named(tmp_path: Path, write: Callable[[Path], None]) -> None:
    path = tmp_path / "scores"
    with full_disk(), pytest.raises(OSError, match="File too large") as raised, naming(path):
        write(path)
    assert (raised.value.errno, raised.value.filename) == (errno.EFBIG, str(path)), "as whoever goes on takes it"


@pytest.mark.parametrize(
    "error", [ConnectionResetError(errno.ECONNRESET, "reset"), SafetensorError("header too large")]
)
def test_another_error_stays_as_it_is(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)) as raised, naming(tmp_path):
        raise error
    assert str(tmp_path) not in str(raised.value)
