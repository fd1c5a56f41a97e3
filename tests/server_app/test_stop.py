"""A run that is asked to stop: nothing is charged in vain, and it goes on where it was."""

import json
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from common.config import ConfigError, FederationConfig
from server_app.log import read_events
from server_app.privacy.ledger import Ledger
from server_app.results.folder import RunFolder
from server_app.rounds import availability
from server_app.rounds.availability import Attendance, StopAsked
from tests.support.killed_runs import resumed
from tests.support.stopping_runs import child, stopped_in, until
from tests.support.tiny import Files, run_tiny, tiny_config, tiny_grid
from workbench.cli.main import app

QUIET: dict[str, Any] = {
    "privacy.epsilon": 0.0, "privacy.noise-multiplier": 2.0, "strategy.name": "lora", "data.evaluation": "",
}  # fmt: skip


def charged(folder: RunFolder) -> Counter[int]:
    lines = (json.loads(line) for line in folder.ledger.read_text(encoding="utf-8").splitlines())
    return Counter(line["round"] for line in lines)


def test_the_round_under_way_is_finished_and_the_next_is_not_charged(
    files: Files, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config(files, tmp_path, QUIET | {"num-server-rounds": 4})
    folder = stopped_in(config, 2)
    assert [row["round"] for row in folder.read_metrics()] == [0, 1, 2]
    assert charged(folder) == {1: 1, 2: 1}
    end = read_events(folder.events)[-1]
    assert (end["event"], end["round"], end["reason"]) == ("run_stopped", 2, "as asked, after round 2")
    assert "stopped as asked, after round 2; it can be resumed" in capfd.readouterr().out
    assert not (folder.path / "report.json").exists()
    assert 'dr_encoder_stopped{run="run"} 1.0' in (folder.path / "metrics.prom").read_text(encoding="utf-8")
    assert folder.stop.stat().st_mode & 0o777 == 0o600
    again = resumed(config, folder)
    assert charged(again) == {1: 1, 2: 1, 3: 1, 4: 1}, "a stop costs nothing"
    assert not again.stop.exists()
    assert (again.path / "report.json").exists()


def test_stage_one_is_finished_since_nothing_could_be_resumed_before(files: Files, tmp_path: Path) -> None:
    changes = {"strategy.name": "dr-encoder", "data.evaluation": ""}
    folder = stopped_in(tiny_config(files, tmp_path, QUIET | changes), 0)
    assert charged(folder) == {0: 1}
    assert (folder.checkpoint / "latest").exists()
    assert read_events(folder.events)[-1]["reason"] == "as asked, after round 0"


def attendance(asked: list[bool], online: int) -> tuple[Attendance, Any]:
    class Grid:
        def get_node_ids(self) -> list[int]:
            asked.append(True)
            return list(range(online))

    there = Attendance(list(range(4)), {}, FederationConfig(), stop_asked=lambda: bool(asked))
    return there, Grid()


def test_who_waits_for_nodes_or_pauses_stops_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(availability.time, "sleep", slept.append)
    there, grid = attendance([], online=0)
    with pytest.raises(StopAsked):
        there.wait(grid, 1, lambda _: None)
    assert slept == [2.0]
    assert not there.waiting
    there, grid = attendance([], online=4)
    there.stop_asked = iter([False, False, True]).__next__
    slept.clear()
    with pytest.raises(StopAsked):
        there.wait(grid, 1, lambda _: None, failed_in_a_row=6)
    assert slept == [2.0, 2.0], "of a pause of 160 s"


def test_a_run_under_way_is_not_begun_twice_and_a_killed_one_can_be_resumed(files: Files, tmp_path: Path) -> None:
    config = tiny_config(files, tmp_path, QUIET | {"num-server-rounds": 40, "federation.min-reply-rate": 0.1})
    folder, running = RunFolder(tmp_path / "run"), child(config, 0.05)
    try:
        until(lambda: len(folder.read_metrics()) > 2, "two rounds")
        assert folder.is_held()
        with pytest.raises(ConfigError, match=r'resume = ".*": another process is going on with that run'):
            resumed(config, folder)
        asked = CliRunner().invoke(app, ["run", "--resume", str(folder.path)])
        assert asked.exit_code == 1
        assert "another process is going on with it" in asked.output
        running.send_signal(signal.SIGKILL)
    finally:
        running.kill()
        running.wait()
    assert not folder.is_held()
    rounds = len(folder.read_metrics()) - 1
    with folder.held():
        assert folder.is_held()
    folder.ask_to_stop()
    with folder.held():
        assert not folder.stop.exists(), "what was asked of an earlier session is over"
    assert rounds >= 2


def test_a_run_that_nobody_stops_leaves_nothing(files: Files, tmp_path: Path) -> None:
    config = tiny_config(files, tmp_path, QUIET)
    folder = run_tiny(config, tiny_grid(config))
    assert not folder.stop.exists()
    assert not folder.is_held()
    assert len(Ledger(folder.ledger).charges) == 3
