"""What ``dr-encoder watch`` tells of a run, from its files."""

import json
import os
import shutil
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message

from common.config import RunConfig
from common.wire.records import EVALUATE, round_of
from server_app.log import read_events
from server_app.results.console import ConsoleLog
from server_app.results.folder import RunFolder
from server_app.results.monitor import NAME
from server_app.rounds.cohort import FederationError
from server_app.run import run_federation
from tests.support.grids import FailingGrid, NamedGrid, faulty
from tests.support.interrupted_runs import say_of_clients
from tests.support.killed_runs import killed_after
from tests.support.stopping_runs import stopped_in
from tests.support.tiny import CLIENTS, Files, run_tiny, tiny_config, tiny_grid
from tests.workbench.watch.conftest import QUIET
from workbench.watch.status import status


def test_a_finished_run_is_told_as_its_files_have_it(done: RunFolder) -> None:
    found, rows = status(done.path, 1e10), done.read_metrics()
    assert (found["state"], found["detail"], found["report"]) == ("finished", "all rounds done", "report.html")
    assert found["rounds"] == {"done": 3, "planned": 3}
    assert found["run"]["data"] == "private.jsonl", "a path tells nothing and takes a phone's whole width"
    assert found["epsilon"]["spent"] == rows[-1]["epsilon"]
    assert found["epsilon"]["budget"] == pytest.approx(found["epsilon"]["spent"], rel=0.01)
    last = found["last_rounds"][0]
    assert (last["round"], last["cohort"], last["replies"]) == (3, CLIENTS, CLIENTS - 1)
    assert (last["noise_promised"], last["noise_present"]) == (rows[-1]["noise_promised"], rows[-1]["noise_present"])
    assert found["scores"][1] == {"name": "loss", "base": rows[0]["loss"], "last": rows[-1]["loss"]}
    assert (found["resume"], found["seconds"]["left"], found["stop_asked"]) == ("", None, False)
    assert found["nodes"] == {"enrolled": CLIENTS, "online": CLIENTS, "needed": 3}


def test_sites_and_failures_have_names_and_reasons(done: RunFolder) -> None:
    found = status(done.path, 1e10)
    names = {site["name"] for site in found["sites"]["rows"]}
    assert names == {f"site-{node}" for node in range(1, CLIENTS + 1)}
    failing = next(site for site in found["sites"]["rows"] if site["name"] == "site-3")
    assert failing["reason"] == "MemoryError: node has no memory left"
    assert {site["reason"] for site in found["sites"]["rows"] if site["name"] != "site-3"} == {""}
    assert all(site["seconds_since_answer"] > 1e9 for site in found["sites"]["rows"])
    failed = [event for event in found["failures"] if event["what"] == "node failed"]
    assert [(event["round"], event["who"]) for event in failed] == [(3, "site-3"), (2, "site-3"), (1, "site-3")]


def test_what_fails_in_a_private_evaluation_is_told_of_the_round_that_it_follows(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its messages have the number of the next round; failures and second legs were booked under that."""
    secure = {"strategy.name": "random-projection", "privacy.trust": "secure", "privacy.dropouts": 2}
    config = tiny_config(files, tmp_path, {**QUIET, **secure, "evaluation.private": 0.2, "num-server-rounds": 2})
    grid, steps = tiny_grid(config, FailingGrid), list[str]()
    grid.failing = {EVALUATE: {3}}

    def listening(what: str, _: Any) -> AbstractContextManager[None]:
        steps.append(what.removesuffix(", replies"))
        return nullcontext()

    monkeypatch.setattr("server_app.rounds.cohort.watched", listening)
    folder = run_federation(grid, config, 7, plots=False)
    told = read_events(folder.events)
    for event in ("evaluation_started", "node_failed", "round_repaired", "evaluation_answered"):
        assert [one["round"] for one in told if one["event"] == event] == [0, 1, 2], event
    failed = [one["round"] for one in status(folder.path, 1e10)["failures"] if one["what"] == "node failed"]
    assert failed == [2, 1, 0]
    evaluation = [f"evaluation after round {number}" for number in (0, 1, 2)]
    once_more = [f"{step}, once more without the missing" for step in evaluation]
    assert [step for step in steps if step != "key set-up"] == [
        *(evaluation[0], once_more[0], "round 1", evaluation[1], once_more[1], "round 2", evaluation[2], once_more[2]),
    ]


def test_a_killed_a_failed_and_a_stopped_run_say_how_they_go_on(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = killed_after(tiny_config(files, tmp_path, QUIET | {"output.name": "killed"}), 1, monkeypatch)
    lines = killed.events.read_text(encoding="utf-8").splitlines()
    killed.events.write_text("\n".join(line for line in lines if "run_failed" not in line) + "\n")
    found = status(killed.path, 1e10)
    assert (found["state"], found["resume"]) == ("killed", f"dr-encoder run --resume {killed.path}")
    assert "stays charged" in found["detail"]
    assert found["rounds"] == {"done": 1, "planned": 3}

    stopped = stopped_in(tiny_config(files, tmp_path, QUIET | {"output.name": "stopped"}), 2)
    found = status(stopped.path, 1e10)
    assert (found["state"], found["detail"]) == ("stopped", "as asked, after round 2")
    simulated = f"dr-encoder run --resume {stopped.path}"
    assert found["resume"] == simulated
    say_of_clients(stopped.path, "deployed")
    deployed = status(stopped.path, 1e10)["resume"]
    assert deployed.startswith("python -m workbench.deployment.submit CONNECTION --config FILE --resume-existing, ")
    say_of_clients(stopped.path, "")
    assert status(stopped.path, 1e10)["resume"] == f"{simulated}; if its sites are deployed: {deployed}"

    changes = QUIET | {"output.name": "failed", "federation.max-failed-rounds": 1}
    config = tiny_config(files, tmp_path, changes)
    with pytest.raises(FederationError):
        run_tiny(config, faulty(tiny_grid(config), raising=range(1, 7), silent=()))
    found = status(tmp_path / "failed", 1e10)
    assert found["state"] == "failed"
    assert "1 round in a row had too few replies" in found["detail"]


def test_what_is_done_now_is_told_while_keys_are_set_up(done: RunFolder, tmp_path: Path) -> None:
    folder = RunFolder(shutil.copytree(done.path, tmp_path / "keys"))
    with folder.held():
        for event in ("keys_started", "keys_exchanged", "keys_known"):
            folder.events.write_text(f'{{"time": "2026-01-01T00:00:00", "event": "{event}", "round": 0}}\n')
            assert "secure aggregation" in status(folder.path, 1e10)["now"]


def test_a_run_that_diverged_is_told_by_the_adapter_that_it_kept(files: Files, tmp_path: Path) -> None:
    """The page showed the scores of the adapter that was left, in green."""
    changes = QUIET | {"server.learning-rate": 1e4, "server.divergence-factor": 1.001, "evaluation.every": 1}
    folder = run_tiny(tiny_config(files, tmp_path, {**changes, "data.evaluation": str(files.public)}))
    outcome = json.loads((folder.path / "report.json").read_text(encoding="utf-8"))["outcome"]
    assert outcome["stopped_because"].startswith("diverged")
    found = status(folder.path, 1e10)
    assert (found["state"], found["warnings"]) == ("finished", [outcome["stopped_because"]])
    told = {score["name"]: score["base"] if score["last"] is None else score["last"] for score in found["scores"]}
    assert told["loss"] == outcome["final"]["loss"] != folder.read_metrics()[-1]["loss"]


def test_a_bad_end_is_told_on_the_page(done: RunFolder, tmp_path: Path) -> None:
    folder = RunFolder(shutil.copytree(done.path, tmp_path / "bad"))
    path = folder.path / "report.json"
    report = json.loads(path.read_text(encoding="utf-8"))
    for said in (["", ""], ["ended BELOW", ""], ["", "MOST ROUNDS"], ["ended BELOW", "MOST ROUNDS"]):
        report["outcome"] |= dict(zip(("warning", "shortage_warning"), said, strict=True))
        path.write_text(json.dumps(report), encoding="utf-8")
        assert status(folder.path, 1e10)["warnings"] == [text for text in said if text]
    for damaged in ("[]", "{", '{"outcome": 3}'):
        path.write_text(damaged, encoding="utf-8")
        assert status(folder.path, 1e10)["warnings"] == []


def test_time_does_not_run_between_a_stop_and_its_resume(done: RunFolder, tmp_path: Path) -> None:
    folder = RunFolder(shutil.copytree(done.path, tmp_path / "again"))
    lines = folder.events.read_text(encoding="utf-8").replace("run_ended", "run_stopped")
    folder.events.write_text(lines, encoding="utf-8")
    with folder.held():
        assert status(folder.path, 1e12)["seconds"]["elapsed"] == folder.read_metrics()[-1]["elapsed"]


def test_what_befalls_a_round_does_not_end_it(done: RunFolder, tmp_path: Path) -> None:
    """A client that failed in round 3 made of it "after round 3", and so did the second leg of its masks."""
    folder = RunFolder(shutil.copytree(done.path, tmp_path / "under-way"))
    with folder.held():
        for event, more, doing in (
            ("round_started", {"cohort": 6}, "round 3: 6 clients asked"),
            ("node_failed", {"node": 3, "reason": "late"}, "round 3: 6 clients asked"),
            ("round_repaired", {"missing": 1}, "asking once more, without 1 missing client"),
            ("reply_dropped", {"node": 3, "reason": "twice"}, "asking once more, without 1 missing client"),
            ("round_finished", {}, "after round 3"),
        ):
            with folder.events.open("a", encoding="utf-8") as log:
                log.write(json.dumps({"time": "2026-01-01T00:00:00", "event": event, "round": 3, **more}) + "\n")
            assert status(folder.path, 1e10)["now"] == doing


def test_a_run_that_goes_on_is_running_or_waiting(done: RunFolder, tmp_path: Path) -> None:
    folder = RunFolder(shutil.copytree(done.path, tmp_path / "going"))
    lines = folder.events.read_text(encoding="utf-8").splitlines()
    until = next(number for number, line in enumerate(lines) if '"round_finished"' in line and '"round": 2' in line)
    folder.events.write_text("\n".join(lines[: until + 1]) + "\n", encoding="utf-8")
    rows = folder.metrics.read_text(encoding="utf-8").splitlines()
    folder.metrics.write_text("\n".join(rows[:3]) + "\n", encoding="utf-8")
    gauges = folder.path / NAME
    gauges.write_text(
        gauges.read_text(encoding="utf-8").replace('rounds_left{run="run"} 0.0', 'rounds_left{run="run"} 1.0')
    )
    with folder.held():
        found = status(folder.path, 1e10)
        assert (found["state"], found["now"], found["resume"]) == ("running", "after round 2", "")
        known = folder.read_metrics()
        end = datetime.fromisoformat(json.loads(lines[until])["time"]).timestamp()
        assert status(folder.path, end + 30)["seconds"]["elapsed"] == pytest.approx(known[2]["elapsed"] + 30)
        assert found["seconds"]["left"] == pytest.approx(known[2]["elapsed"] - known[1]["elapsed"])
        with folder.events.open("a", encoding="utf-8") as log:
            log.write(
                '{"time": "2026-01-01T00:00:00", "event": "waiting_for_nodes", "round": 3, "online": 1, "needed": 3}\n'
            )
        found = status(folder.path, 1e10)
        assert (found["state"], found["failures"][0]["what"]) == ("waiting", "waiting for nodes")
        folder.metrics.write_text(rows[0] + "\n", encoding="utf-8")
        loss = known[0]["loss"]
        assert status(folder.path, 1e10)["scores"][1] == {"name": "loss", "base": loss, "last": None}, "no change yet"
        folder.ask_to_stop()
        assert status(folder.path, 1e10)["stop_asked"]
    assert status(folder.path, 1e10)["state"] == "killed"


class Looking(NamedGrid):
    """Keeps what is told as left when round 3 is asked, with the rounds that have ended by then."""

    folder = RunFolder(Path())
    seen: tuple[float, list[dict[str, Any]]] | None = None

    def answer(self, message: Message) -> Message | None:
        if round_of(message) == 3 and self.seen is None:
            self.seen = status(self.folder.path, 1e10)["seconds"]["left"], self.folder.read_metrics()
        return super().answer(message)


def test_rounds_that_the_budget_no_longer_pays_for_take_no_time(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Round 2 of four was lost and charged again: the run ends after round 3."""
    config = tiny_config(files, tmp_path, QUIET | {"num-server-rounds": 4})
    folder = killed_after(config, 2, monkeypatch, "before")
    told: dict[int, float] = {}
    monkeypatch.setattr(ConsoleLog, "round", lambda *now: told.update({now[1].round: now[3].left(now[1].round, 1.0)}))
    again = RunConfig.parse(config.flat() | {"resume": str(folder.path)})
    grid = tiny_grid(again, Looking)
    grid.folder = folder
    run_federation(grid, again, 8, plots=False)
    assert grid.seen is not None
    left, (_, first, second) = grid.seen
    assert left == pytest.approx(second["elapsed"] - first["elapsed"]), "of round 3 alone, which is paid for"
    assert (told[2], told[3]) == (1.0, 0.0)


def test_a_run_that_has_only_begun_can_be_shown(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").touch()
    found = status(tmp_path, 1e10)
    assert (found["state"], found["rounds"], found["sites"]["rows"]) == ("killed", {"done": 0, "planned": 0}, [])
    assert found["resume"].startswith(
        "cannot be resumed: it stopped before its first checkpoint; nothing had been charged"
    )
    assert found["detail"] == "its process has ended without a word", "nothing is charged that could stay so"


@pytest.mark.parametrize("text", ["a =", f"a = {'[' * 100_000}", None], ids=["no TOML", "too deep", "a named pipe"])
def test_a_run_whose_configuration_cannot_be_read_is_shown_without_it(
    done: RunFolder, tmp_path: Path, text: str | None
) -> None:
    run = RunFolder(tmp_path / "run")
    shutil.copytree(done.path, run.path)
    saved = run.path / "config.toml"
    saved.unlink()
    saved.write_text(text) if text else os.mkfifo(saved)
    found = status(run.path, 1e10)
    assert found["run"] == {"name": "run", "strategy": "", "model": "", "data": ""}
    assert found["epsilon"]["spent"] == status(done.path, 1e10)["epsilon"]["spent"]
    (run.path / "checkpoint" / "ended").unlink()
    run.events.write_text(run.events.read_text(encoding="utf-8").replace("run_ended", "run_failed"))
    resume = "dr-encoder run --resume" if text else "cannot be resumed: config.toml is neither a file nor a folder"
    assert status(run.path, 1e10)["resume"].startswith(resume), "which says what is wrong with it"


@pytest.mark.parametrize("text", ["a{b 1", 'dr_encoder_site_rounds_unanswered{site="x"} nan', None])
def test_a_run_whose_figures_cannot_be_read_is_shown_without_them(
    done: RunFolder, tmp_path: Path, text: str | None
) -> None:
    run = RunFolder(shutil.copytree(done.path, tmp_path / "run"))
    told = run.path / NAME
    told.unlink()
    told.write_text(text, encoding="utf-8") if text else os.mkfifo(told)
    found = status(run.path, 1e10)
    assert (found["state"], found["rounds"]["done"]) == ("finished", 3)
    assert found["epsilon"]["spent"] is None
    assert len(found["sites"]["rows"]) == (1 if text and "site" in text else 0)


@pytest.mark.parametrize("name", ["checkpoint/latest", "checkpoint/*/state.json", "checkpoint/*/tensors.safetensors"])
def test_a_pipe_in_place_of_a_checkpoints_file_is_not_waited_for(done: RunFolder, tmp_path: Path, name: str) -> None:
    run = RunFolder(shutil.copytree(done.path, tmp_path / "run"))
    (run.path / "checkpoint" / "ended").unlink()
    run.events.write_text(run.events.read_text(encoding="utf-8").replace("run_ended", "run_failed"))
    (path,) = run.path.glob(name)
    path.unlink()
    os.mkfifo(path)
    assert "is neither a file nor a folder" in status(run.path, 1e10)["resume"]


def test_private_scores_that_were_lost_are_told(tmp_path: Path) -> None:
    told = '{"time": "2026-01-01T00:00:00", "event": "evaluation_answered", "round": 2, "reason": "%s"}\n'
    (tmp_path / "events.jsonl").write_text(told % "4 of 6 clients replied, 5 are needed" + told % "", encoding="utf-8")
    (failure,) = status(tmp_path, 1e10)["failures"]
    assert (failure["what"], failure["round"]) == ("no private scores", 2)
    assert failure["reason"].startswith("4 of 6")


def test_where_the_engine_died_the_log_is_named(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    run.events.touch()
    log = tmp_path / "run.flower.log"
    log.touch()
    assert status(run.path, 1e10)["detail"].endswith(f"; its log is {log}")
