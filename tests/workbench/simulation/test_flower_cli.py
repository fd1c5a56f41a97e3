"""What ``flwr --format json`` tells, against a stand-in that prints what Flower 1.41 prints, whole or not."""

import os
import sys
from pathlib import Path

import pytest

from tests.support.flwr_program import write_flwr
from workbench.simulation.flower_cli import FlowerCommandError, ask_flower, listed_run

TWO = '{"success": true, "runs": [{"run-id": "5", "status": "running"}, {"run-id": "7", "status": "pending"}]}'
REFUSED = '{"success": false, "error-message": "Displaying run ID 5...\\\\n\\\\n[code: 2] Run not found"}'


@pytest.fixture(autouse=True)
def _path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")


def prints(folder: Path, printed: str, code: int = 0) -> None:
    """Let ``flwr`` print a text and end with a code; its arguments are in the file ``asked``."""
    write_flwr(folder, f"#!/bin/sh\necho \"$@\" > {folder}/asked\nprintf '%b' '{printed}'\nexit {code}\n")


@pytest.mark.parametrize(
    ("connection", "run", "status", "asked"),
    [
        ("hospital", 5, "running", "ls hospital --run-id 5 --format json"),
        ("hospital", 7, "pending", "ls hospital --run-id 7 --format json"),
        ("", 7, "pending", "ls --run-id 7 --format json"),
        ("hospital", None, "running", "ls hospital --format json"),
    ],
)
def test_a_run_is_asked_for_and_found_by_its_id(
    tmp_path: Path, connection: str, run: int | None, status: str, asked: str
) -> None:
    prints(tmp_path, TWO)
    assert listed_run(connection, run)["status"] == status
    assert (tmp_path / "asked").read_text().strip() == asked


@pytest.mark.parametrize(
    ("printed", "code", "said"),
    [
        (REFUSED, 0, r"said: Displaying run ID 5\.\.\. \[code: 2\] Run not found$"),
        (REFUSED, 1, r"said: Displaying run ID 5\.\.\. \[code: 2\] Run not found$"),
        (TWO, 3, r'said: .*"pending"}\]}$'),
        ("", 0, "said: nothing, exit code 0$"),
        ("", 137, "said: nothing, exit code 137$"),
        ("Usage: flwr ls", 2, "said: Usage: flwr ls$"),
        (TWO[:-9], 0, r'said: {"success": true.*"pe$'),
        ('["success"]', 0, r'said: \["success"\]$'),
        ('{"runs": []}', 0, r'said: {"runs": \[\]}$'),
    ],
)
def test_a_command_that_failed_or_told_nothing_is_an_error_with_what_it_said(
    tmp_path: Path, printed: str, code: int, said: str
) -> None:
    prints(tmp_path, printed, code)
    with pytest.raises(FlowerCommandError, match=rf"^flwr ls --run-id 5 --format json {said}"):
        listed_run(run=5)


@pytest.mark.parametrize(("run", "said"), [(6, "no run 6"), (None, "no run")])
def test_a_list_without_the_run_is_an_error(tmp_path: Path, run: int | None, said: str) -> None:
    prints(tmp_path, TWO if run else '{"success": true, "runs": []}')
    with pytest.raises(FlowerCommandError, match=f"said: {said}$"):
        listed_run("hospital", run)


def test_what_it_wrote_to_standard_error_is_told_and_of_much_the_end(tmp_path: Path) -> None:
    write_flwr(tmp_path, "#!/bin/sh\nseq 1000\necho 'not reachable' >&2\nexit 1\n")
    with pytest.raises(FlowerCommandError, match=r"999 1000 not reachable$") as raised:
        ask_flower("run")
    assert len(str(raised.value)) < 400


def test_a_command_that_does_not_end_is_given_up(tmp_path: Path) -> None:
    write_flwr(tmp_path, "#!/bin/sh\nexec sleep 60\n")
    with pytest.raises(FlowerCommandError, match=r"said: nothing within 0 s$"):
        ask_flower("run", seconds=0.2)


def test_it_runs_in_the_folder_and_environment_that_it_is_given(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    told = '{"success": true, "pwd": "%s", "home": "%s"}'
    write_flwr(tmp_path, f"#!/bin/sh\nprintf '{told}' $PWD $FLWR_HOME\n")
    environment = {"PATH": f"{tmp_path}{os.pathsep}/bin", "FLWR_HOME": "there"}
    found = ask_flower("run", folder=tmp_path / "home", environment=environment)
    assert (found["pwd"], found["home"]) == (str(tmp_path / "home"), "there")


def test_flowers_program_is_found_beside_this_python_where_no_path_leads_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after ``.venv/bin/dr-encoder traffic`` in a shell whose environment isn't activated."""
    write_flwr(tmp_path, "#!/bin/sh\necho '{\"success\": true}'\n")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", "/nowhere")
    assert ask_flower("ls") == {"success": True}
