"""The structured log of a run: what a program that watches a server reads."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from server_app.log import log_event, read_events, recording
from server_app.results.folder import RunFolder
from server_app.rounds.cohort import FederationError
from server_app.run import run_federation
from server_app.session import Session
from tests.support.grids import faulty
from tests.support.tiny import CLIENTS, Files, run_tiny, tiny_config, tiny_grid
from workbench.simulation.in_process import InProcessGrid

RUN = 4_294_967_297
ROUND = ["round_started", "round_finished", "checkpoint_saved"]
STAGE_ONE = ["stage_one_started", "stage_one_answered", "codec_ready", "checkpoint_saved"]


def story(folder: RunFolder) -> list[tuple[str, int | None]]:
    return [(event["event"], event.get("round")) for event in read_events(folder.events)]


def of(events: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [event for event in events if event["event"] == name]


def test_a_run_is_told_from_its_start_to_its_end(files: Files, tmp_path: Path) -> None:
    config = tiny_config(files, tmp_path, {"data.evaluation": ""})
    began = datetime.now(UTC) - timedelta(milliseconds=2)
    folder = run_federation(tiny_grid(config), config, RUN, plots=False)
    events = read_events(folder.events)
    told = [("run_started", None), *((name, 0) for name in STAGE_ONE)]
    told += [(name, number) for number in (1, 2, 3) for name in ROUND]
    assert story(folder) == [*told, ("run_ended", 3)]
    assert {event["run"] for event in events} == {RUN}
    assert {event["level"] for event in events} == {"info"}
    times = [datetime.fromisoformat(event["time"]) for event in events]
    assert times == sorted(times)
    assert began <= times[0] <= times[-1] <= datetime.now(UTC)
    assert {time.utcoffset() for time in times} == {timedelta(0)}
    assert events[0]["clients"] == CLIENTS
    assert events[-1]["reason"] == "all rounds done"
    assert [event["replies"] for event in of(events, "round_finished")] == [CLIENTS] * 3


def test_each_node_that_failed_is_named_with_its_reason(files: Files, tmp_path: Path) -> None:
    changes = {"strategy.name": "lora", "data.evaluation": "", "num-server-rounds": 2}
    config = tiny_config(files, tmp_path, changes)
    folder = run_federation(faulty(tiny_grid(config), raising={2}, silent={5}, until=1), config, RUN, plots=False)
    failed = of(read_events(folder.events), "node_failed")
    assert [(event["round"], event["node"], event["level"]) for event in failed] == [
        (1, 2, "warning"),
        (1, 5, "warning"),
    ]
    assert failed[0]["reason"] == "MemoryError: node has no memory left"
    assert "no reply in time" in failed[1]["reason"]


def test_a_run_that_fails_says_why_and_the_log_goes_on_when_it_is_resumed(files: Files, tmp_path: Path) -> None:
    changes = {"strategy.name": "lora", "data.evaluation": "", "federation.max-failed-rounds": 1}
    config = tiny_config(files, tmp_path, changes)
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(FederationError):
        run_federation(faulty(tiny_grid(config), raising=set(), silent={1, 2, 3, 4}, until=1), config, 1, plots=False)
    last = read_events(folder.events)[-1]
    assert (last["event"], last["level"], last["error"]) == ("run_failed", "error", "FederationError")
    assert "too few replies" in last["reason"]
    assert of(read_events(folder.events), "round_finished")[0]["level"] == "warning"

    with folder.events.open("a") as handle:
        handle.write('{"time": "20')  # what a crash leaves of a line
    resumed = tiny_config(files, tmp_path, changes | {"resume": str(folder.path)})
    run_federation(tiny_grid(resumed), resumed, 2, plots=False)
    events = read_events(folder.events)
    assert [event["run"] for event in of(events, "run_started") + of(events, "run_resumed")] == [1, 2]
    assert events[-1]["event"] == "run_ended"
    assert {event["run"] for event in events[events.index(last) + 1 :]} == {2}


def test_one_run_writes_nothing_into_the_log_of_another(tmp_path: Path) -> None:
    for number in (1, 2):
        with recording(tmp_path / f"{number}.jsonl", number):
            log_event("round_started", round=number)
    log_event("round_started", round=3)
    for number in (1, 2):
        assert [event["round"] for event in read_events(tmp_path / f"{number}.jsonl")] == [number]


def test_what_a_client_says_stays_on_one_line_and_short(tmp_path: Path) -> None:
    with recording(tmp_path / "events.jsonl", 1):
        log_event("node_failed", round=1, node=7, reason='"}\n{"event": "run_ended"}\u2028' + "x" * 10_000)
    lines = (tmp_path / "events.jsonl").read_text().split("\n")
    assert len(lines) == 2
    assert len(lines[0]) < 1000
    assert json.loads(lines[0])["reason"].startswith('"}\n{"event"')


def test_the_log_holds_nothing_but_what_is_listed(files: Files, tmp_path: Path) -> None:
    """A new field has to be weighed: nothing that a client measured, no example, no key may get in."""
    config = tiny_config(files, tmp_path, {"data.evaluation": ""})
    grid: InProcessGrid = faulty(tiny_grid(config), raising={2}, silent=set())
    events = read_events(run_federation(grid, config, RUN, plots=False).events)
    fields = {key for event in events for key in event} - {"time", "level", "event", "run"}
    noise = {"noise_promised", "noise_present"}  # by the public terms and the number of replies
    moved = {"asked", "answered", "bytes_up", "bytes_down"}  # by how many were asked and answered
    assert fields == {"round", "node", "reason", "cohort", "replies", "clients", "app_digest"} | moved | noise


@pytest.mark.parametrize(
    ("error", "event"),
    [
        (KeyboardInterrupt(), "run_stopped"),
        (SystemExit(0), "run_stopped"),
        (SystemExit(), "run_stopped"),
        (SystemExit(1), "run_failed"),
        (SystemExit("lost"), "run_failed"),
    ],
)
def test_a_process_that_is_told_to_end_is_no_failed_run(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, event: str
) -> None:
    """``flwr stop`` was an error of the type SystemExit with the reason 0, and an alarm."""

    def ends(*_: object) -> None:
        raise error

    monkeypatch.setattr(Session, "on_prepared", ends)
    with pytest.raises(type(error)):
        run_tiny(tiny_config(files, tmp_path, {"strategy.name": "lora"}))
    folder = RunFolder(tmp_path / "run")
    assert read_events(folder.events)[-1]["event"] == event
    state = event.removeprefix("run_")
    assert f'dr_encoder_{state}{{run="run"}} 1.0' in (folder.path / "metrics.prom").read_text(encoding="utf-8")


def test_the_page_of_results_has_every_event() -> None:
    root = Path(__file__).parents[2]
    code = "".join(path.read_text(encoding="utf-8") for path in (root / "server_app").rglob("*.py"))
    told = set(re.findall(r"log_event\(\s*\"([a-z_]+)\"", code)) | {"run_started", "run_resumed"}
    page = (root / "docs" / "results.md").read_text(encoding="utf-8")
    table = page.partition("## events.jsonl")[2].partition("\n## ")[0]
    heads = "".join(line.split("|")[1] for line in table.splitlines() if line.startswith("| `"))
    assert told == set(re.findall(r"`([a-z_]+)`", heads)) - {"warning", "error"}
