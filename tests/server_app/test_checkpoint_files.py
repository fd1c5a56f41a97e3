"""An interrupted run whose checkpoint is missing, cut or damaged is refused with what to do, before anything starts."""

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from server_app.results.checkpoint_files import STATE, TENSORS
from server_app.results.checkpoints import load_checkpoint
from server_app.results.resuming import why_not_resumable
from tests.support.interrupted_runs import LAST, write_checkpoint, write_interrupted
from workbench.cli import main as cli
from workbench.cli import run as run_command

runner = CliRunner()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no state": (lambda last: (last / STATE).unlink(), f"checkpoint/{LAST}/state.json is missing"),
    "empty state": (lambda last: (last / STATE).write_text(""), "state.json is cut off or damaged"),
    "half a state": (lambda last: (last / STATE).write_text("{"), "state.json is cut off or damaged"),
    "cut state": (lambda last: cut(last / STATE), "state.json is cut off or damaged"),
    "no text": (lambda last: (last / STATE).write_bytes(b"\xff\xfe{"), "state.json is cut off or damaged"),
    "a deep state": (lambda last: (last / STATE).write_text("[" * 100_000), "or damaged (it is nested too deep)"),
    "a list": (lambda last: (last / STATE).write_text("[]"), "state.json is cut off or damaged (it lacks round"),
    "other keys": (lambda last: (last / STATE).write_text('{"round": 3}'), "it lacks failed-in-a-row"),
    "no tensors": (lambda last: (last / TENSORS).unlink(), f"checkpoint/{LAST}/{TENSORS} is missing"),
    "cut tensors": (lambda last: cut(last / TENSORS), f"{TENSORS} is cut off or damaged"),
    "empty tensors": (lambda last: (last / TENSORS).write_bytes(b""), "its header is cut off"),
    "no folder": (
        lambda last: last.rename(last.with_name("x")),
        f'checkpoint/latest names "{LAST}", which is not there',
    ),
    "empty pointer": (lambda last: (last.parent / "latest").write_text(""), "checkpoint/latest names"),
}


@pytest.mark.parametrize(("damage", "said"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_checkpoint_is_told_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], object], said: str
) -> None:
    monkeypatch.setattr(run_command, "launch", lambda *_: pytest.fail("the engine was started"))
    run = write_interrupted(tmp_path / "mine")
    damage(run / "checkpoint" / LAST)
    result = runner.invoke(cli.app, ["run", "--resume", str(run)])
    assert result.exit_code == 1
    assert result.output.startswith(f'error: resume = "{run}": ')
    assert said in result.output
    assert "restore it from a copy, or start a new run" in result.output
    assert result.output.count("\n") == 1


def test_a_whole_checkpoint_has_no_fault(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    assert why_not_resumable(tmp_path) == ""


def test_the_server_tells_it_in_the_same_words(tmp_path: Path) -> None:
    cut(write_checkpoint(tmp_path) / STATE)
    with pytest.raises(Exception, match=r"state\.json is cut off or damaged .*start a new run"):
        load_checkpoint(tmp_path / "checkpoint", None, None)  # type: ignore[arg-type]  # not reached
