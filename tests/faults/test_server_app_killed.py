"""The ServerApp's process killed in each phase before and between the rounds, and stopped; within one: test_crashes."""

import json
import os
from typing import Any

import pytest

from server_app.log import read_events
from server_app.privacy.ledger import Ledger
from tests.faults.conftest import Field, has_ended, wait_for

pytestmark = pytest.mark.faults
RUN_SECONDS = 1200.0
NO_CHECKPOINT = "it stopped before its first checkpoint; its ledger has charged stage 1: statistics: at most epsilon "


def told(field: Field, name: str) -> list[str]:
    return [event["event"] for event in read_events(field.folder(name).events)]


def kill(field: Field, run: int) -> None:
    """End the ServerApp as a crash would, and wait until Flower has noticed."""
    field.process("superlink-superexec", "flwr-serverapp").kill()
    state = field.federation.wait(run, RUN_SECONDS)
    print(f"OBSERVED killed: {state['status']}, {state['status-details']}")
    assert state["status"] != "finished:completed"


def resume(field: Field, name: str, **changes: Any) -> tuple[int, str]:
    """Continue a run; its new id and how it ended."""
    run = field.federation.submit(field.config(name, **changes, resume=str(field.folder(name).path)))
    return run, str(field.federation.wait(run, RUN_SECONDS)["status"])


def assert_not_resumable(field: Field, name: str, *runs: int, **changes: Any) -> None:
    """The attempt is refused with words that tell what to do, and what the ledger holds stays spent."""
    before = list(field.check_books(name, *runs).charges)
    assert [charge.label[:7] for charge in before] == ["stage 1"]
    again, status = resume(field, name, **changes)
    assert status == "finished:failed"
    assert NO_CHECKPOINT in field.federation.run_log(again)
    assert again not in {event["run"] for event in read_events(field.folder(name).events)}
    assert list(Ledger(field.folder(name).ledger).charges) == before


def assert_completed(field: Field, name: str, *runs: int) -> None:
    ledger = field.check_books(name, *runs)
    report = json.loads((field.folder(name).path / "report.json").read_text())
    rows = [(row["round"], row.get("replies", 0)) for row in field.folder(name).read_metrics() if row["round"]]
    print(f"OBSERVED resumed: {report['outcome']['stopped_because']}, rounds {rows}, {len(ledger.charges)} charges")
    assert report["outcome"]["stopped_because"] in {"all rounds done", "privacy budget spent"}
    assert rows[-1] == (report["run"]["rounds_run"], 3)
    assert (field.folder(name).path / "adapter" / "adapter_model.safetensors").exists()
    assert told(field, name)[-1] == "run_ended"


def test_killed_while_the_sites_measure_statistics(field: Field) -> None:
    run = field.federation.submit(field.config("statistics"))
    wait_for(lambda: field.answers(run), 600, "no site has measured")
    kill(field, run)
    assert told(field, "statistics") == ["run_started", "stage_one_started"]
    assert_not_resumable(field, "statistics", run)


def test_killed_while_the_prior_is_trained(field: Field) -> None:
    endless = {"codec.form": "trained", "codec.size": 2048}  # 50 million weights, a minute or more
    run = field.federation.submit(field.config("prior", **endless))
    wait_for(lambda: "stage_one_answered" in told(field, "prior"), 600, "stage 1 was not answered")
    kill(field, run)
    assert told(field, "prior")[-1] == "stage_one_answered"
    assert_not_resumable(field, "prior", run, **endless)


def test_killed_while_it_writes_a_checkpoint(field: Field) -> None:
    """A pipe that nobody reads in place of the file that makes the checkpoint count: the writer hangs in it."""
    run = field.federation.submit(field.config("writing", rounds=3))
    folder = field.folder("writing")
    wait_for(lambda: told(field, "writing")[-2:] == ["checkpoint_saved", "round_started"], 600, "no round")
    latest = (folder.checkpoint / "latest").read_text()
    pipe = folder.checkpoint / "latest.new"
    os.mkfifo(pipe)
    wait_for(lambda: "round_finished" in told(field, "writing"), 600, "no round came to its end")
    written = folder.checkpoint / "round-000001"
    wait_for((written / "state.json").exists, 60, "no checkpoint was begun")
    kill(field, run)
    assert told(field, "writing")[-1] == "round_finished", "the checkpoint was not counted as saved"
    assert (folder.checkpoint / "latest").read_text() == latest == "round-000000"
    pipe.unlink()
    again, status = resume(field, "writing", rounds=3)
    assert status == "finished:completed", field.federation.run_log(again)[-3000:]
    assert_completed(field, "writing", run, again)
    assert Ledger(folder.ledger).rounds_charged(1) == 2, "the round was run twice and is paid for twice"


def test_stopped_by_the_operator_and_continued(field: Field) -> None:
    run = field.federation.submit(field.config("stopped", rounds=3))
    field.wait_rounds("stopped", 1)
    server_app = field.process("superlink-superexec", "flwr-serverapp")
    field.federation.flwr("stop", str(run), "deployment")
    state = field.federation.wait(run, RUN_SECONDS)
    print(f"OBSERVED stopped: {state['status']}, {state['status-details']}, log ends {told(field, 'stopped')[-2:]}")
    assert state["status"] == "finished:stopped"
    wait_for(lambda: has_ended(server_app), 120, "the ServerApp goes on after flwr stop")
    again, status = resume(field, "stopped", rounds=3)
    assert status == "finished:completed", field.federation.run_log(again)[-3000:]
    assert_completed(field, "stopped", run, again)
