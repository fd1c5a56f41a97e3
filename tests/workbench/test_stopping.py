"""What a program has started ends with it, however it ends."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.support.processes import left_running, processes_of

PROGRAM = """
import os, subprocess, sys, time
from pathlib import Path
from workbench.stopping import kept

home = Path(sys.argv[1])
home.mkdir()
with kept(home):
    environment = {"PATH": os.environ["PATH"], "FLWR_HOME": str(home / "superlink")}
    started = subprocess.Popen(["sleep", "60"], env=environment, start_new_session=True)
    print("started", flush=True)
    if sys.argv[2] == "killed":
        time.sleep(60)
started.kill()
started.wait()
(home / "left").touch()
"""


def wait_for_keeper(home: Path) -> None:
    """Until the process that was started to see to ``home`` is gone."""
    deadline = time.monotonic() + 30
    while any(str(home) in (one.info["cmdline"] or ()) for one in psutil.process_iter(["cmdline"])):
        assert time.monotonic() < deadline, "the keeper goes on"
        time.sleep(0.05)


@pytest.mark.parametrize("end", ["killed", "its own"])
def test_what_a_killed_program_has_started_ends_and_its_folder_goes(tmp_path: Path, end: str) -> None:
    """A run that was killed with -9 left its SuperLink, its simulation and Ray behind."""
    home = tmp_path / "home"
    command = [sys.executable, "-c", PROGRAM, str(home), end]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2], start_new_session=True) as it:
        assert it.stdout is not None
        assert it.stdout.readline() == b"started\n"
        if end == "killed":
            assert processes_of(home)
            it.kill()
        it.wait()
    wait_for_keeper(home)
    assert left_running(home) == []
    assert home.exists() == (end == "its own")
