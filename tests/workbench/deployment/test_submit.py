"""A run submitted and waited for, against a stand-in for ``flwr`` that says what a SuperLink would."""

import os
import sys
import tomllib
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tests.support.flwr_program import write_flwr
from tests.support.interrupted_runs import say_of_clients, write_interrupted
from workbench.deployment import submit

PROGRAM = f"""#!{sys.executable}
import json, pathlib, sys
here = pathlib.Path(__file__).parent
with (here / "calls").open("a") as calls:
    calls.write(" ".join(sys.argv[1:]) + chr(10))
if sys.argv[1] == "run":
    if (here / "refused").exists():
        sys.exit("no such connection")
    print(json.dumps({{"success": True, "run-id": "7"}}))
if sys.argv[1] == "log" and (here / "log").exists():
    print((here / "log").read_text())
if sys.argv[1] == "ls":
    answers = (here / "statuses").read_text().split()
    (here / "statuses").write_text(" ".join(answers[1:] or answers))
    if answers[0] == "down":
        sys.exit("SuperLink is not reachable")
    print(json.dumps({{"success": True, "runs": [{{"run-id": "7", "status": answers[0]}}]}}))
"""


@pytest.fixture
def flwr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_flwr(tmp_path, PROGRAM)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(submit, "_POLL_SECONDS", 0.0)
    return tmp_path


def run(*arguments: str) -> tuple[int, str]:
    program = typer.Typer()
    program.command()(submit.submit)
    done = CliRunner().invoke(program, ["hospital", *arguments])
    return done.exit_code, done.output


def test_a_completed_run_ends_with_0_through_a_restart_of_the_superlink(flwr: Path) -> None:
    (flwr / "statuses").write_text("running down down running finished:completed")
    (flwr / "run.toml").write_text("seed = 1\n")
    code, output = run("--app", "@clinic/app==1.2.3", "--config", str(flwr / "run.toml"))
    assert (code, "run 7 is finished:completed" in output) == (0, True), output
    calls = (flwr / "calls").read_text().splitlines()
    assert calls[0] == f"run @clinic/app==1.2.3 hospital -c {flwr / 'run.toml'} --format json"
    assert calls.count("log 7 hospital --stream") == 3, "the log is taken up again after each interruption"


def test_what_the_run_warned_of_is_the_last_that_is_said_and_said_once(flwr: Path) -> None:
    """The log is shown anew after each restart of the SuperLink."""
    (flwr / "statuses").write_text("running finished:completed")
    (flwr / "log").write_text("[dr-encoder] finished: all\n[dr-encoder] WARNING: MOST ROUNDS\nWARNING: other")
    code, output = run()
    assert code == 0
    assert output.endswith("run 7 is finished:completed\n  WARNING: MOST ROUNDS\n")


def test_a_terminal_obeys_no_line_of_the_log(flwr: Path) -> None:
    """Flower logs what the ServerApp raises as it is, and that may be the words of a model's files."""
    (flwr / "statuses").write_text("finished:failed")
    (flwr / "log").write_text("\x1b[91mERROR\x1b[0m : a pickle asks for \x1b]0;title\x07")
    assert "\nERROR : a pickle asks for \\x1b]0;title\\x07\n" in run()[1]


@pytest.mark.parametrize("status", ["finished:failed", "finished:stopped"])
def test_a_run_that_did_not_complete_ends_with_1(flwr: Path, status: str) -> None:
    (flwr / "statuses").write_text(status)
    assert run() == (1, f"run 7 started; Ctrl-C leaves it running, `flwr stop 7 hospital` ends it\nrun 7 is {status}\n")


def test_a_refused_submission_says_why(flwr: Path) -> None:
    (flwr / "refused").touch()
    code, output = run()
    assert (code, "no such connection" in output) == (1, True)


def test_a_superlink_that_is_gone_is_not_asked_for_ever(flwr: Path) -> None:
    (flwr / "statuses").write_text("down")
    code, output = run()
    assert code == 1
    assert "no longer answers for run 7: flwr ls" in output
    assert "said: SuperLink is not reachable" in output


def of_a_run(flwr: Path, *saved: str, interrupted: bool = False) -> str:
    """A configuration whose run's folder has these files; none: it has not begun."""
    folder = flwr / "results" / "first"
    if interrupted:
        write_interrupted(folder)
    for name in saved:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    path = flwr / "first.toml"
    path.write_text(f'output.dir = "{folder.parent}"\noutput.name = "first"\nseed = 3\n')
    return str(path)


def sent(flwr: Path) -> list[str]:
    """The words of the command that has started a run."""
    calls = (flwr / "calls").read_text().splitlines() if (flwr / "calls").exists() else []
    return next((call.split() for call in calls if call.startswith("run ")), [])


@pytest.mark.parametrize(
    ("saved", "interrupted", "code", "said", "starts"),
    [
        ((), False, 0, "run 7 is finished:completed", True),
        ((), True, 0, "first: resumed", True),
        (("report.json",), False, 0, "this run has ended", False),
        (("ledger.jsonl",), False, 2, "it stopped before its first checkpoint; nothing had been charged", False),
    ],
    ids=["new", "interrupted", "done", "without a checkpoint"],
)
def test_a_unit_that_tries_again_resumes_and_never_pays_twice(
    flwr: Path, saved: tuple[str, ...], interrupted: bool, code: int, said: str, starts: bool
) -> None:
    """Exit status 2 is the one that the unit does not try again after."""
    (flwr / "statuses").write_text("finished:completed")
    found, output = run("--config", of_a_run(flwr, *saved, interrupted=interrupted), "--resume-existing")
    assert (found, said in output, bool(sent(flwr))) == (code, True, starts), output
    unit = (Path(__file__).parents[3] / "systemd" / "dr-encoder-run@.service").read_text()
    assert "RestartPreventExitStatus=2\n" in unit
    assert "--config /etc/dr-encoder/runs/%i.toml --resume-existing\n" in unit


@pytest.mark.parametrize(("known", "code"), [("simulated", 2), ("deployed", 0)])
def test_sites_are_not_asked_to_go_on_with_a_simulation(flwr: Path, known: str, code: int) -> None:
    (flwr / "statuses").write_text("finished:completed")
    config = of_a_run(flwr, interrupted=True)
    say_of_clients(flwr / "results" / "first", known)
    (flwr / "results" / "first" / "events.jsonl").write_text('{"event": "run_started", "run": 7}\n')
    found, output = run("--config", config, "--resume-existing")
    assert (found, bool(sent(flwr))) == (code, code == 0), output
    if code:
        assert not (flwr / "calls").exists(), "a SuperLink that never had the run is not asked for it"
        assert output.endswith(f"continue it with: dr-encoder run --resume {flwr / 'results' / 'first'}\n")


def test_a_resumed_run_has_the_keys_of_its_file_and_its_folder(flwr: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[dict[str, object]] = []

    def keep(_connection: str, _app: str, keys: list[str]) -> int:
        kept.append(tomllib.loads(Path(keys[1]).read_text(encoding="utf-8")))
        return 7

    monkeypatch.setattr(submit, "_start", keep)
    (flwr / "statuses").write_text("finished:completed")
    run("--config", of_a_run(flwr, interrupted=True), "--resume-existing")
    results = str(flwr / "results")
    assert kept == [{"output": {"dir": results, "name": "first"}, "seed": 3, "resume": f"{results}/first"}]


@pytest.mark.parametrize(("status", "again"), [("running", False), ("finished:failed", True)])
def test_a_run_that_goes_on_though_its_watcher_ended_is_watched_and_not_resumed(
    flwr: Path, status: str, again: bool
) -> None:
    """Two ServerApps in one folder would each charge and ask."""
    config = of_a_run(flwr, interrupted=True)
    (flwr / "results" / "first" / "events.jsonl").write_text('{"event": "run_started", "run": 7}\n')
    (flwr / "statuses").write_text(f"{status} finished:completed")
    code, output = run("--config", config, "--resume-existing")
    assert (code, "run 7 is finished:completed" in output) == (0, True)
    assert bool(sent(flwr)) is again is ("resumed" in output)


def test_without_a_place_nothing_can_be_told_of_an_earlier_run(flwr: Path) -> None:
    (flwr / "x.toml").write_text("seed = 1\n")
    code, output = run("--config", str(flwr / "x.toml"), "--resume-existing")
    assert (code, "needs output.name, and an absolute output.dir" in output) == (2, True)
    assert run("--resume-existing")[0] == 2
