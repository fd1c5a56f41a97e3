"""``make deploy-demo``: a whole TLS federation of real processes, which leaves nothing behind."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from server_app.results.folder import RunFolder
from tests.faults.conftest import nothing_left, wait_for
from tests.support.processes import left_running

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("own_signals")]  # a shell's background ignores SIGINT


@pytest.fixture(autouse=True)
def _cleaned_up(tmp_path: Path) -> Iterator[None]:
    """A demonstration that a failing test leaves behind is ended with all that it has started."""
    with nothing_left(tmp_path / "scratch"):
        yield


def start(tmp_path: Path, *options: str, rounds: int = 1) -> subprocess.Popen[str]:
    """The demonstration in a process of its own, everything temporary below ``scratch``."""
    (tmp_path / "scratch").mkdir(exist_ok=True)
    command = [sys.executable, "-m", "workbench.deployment.demo", "--rounds", str(rounds)]
    command += ["--output", str(tmp_path / "results"), "--name", "run", *options]
    environment = os.environ | {"TMPDIR": str(tmp_path / "scratch"), "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def listening(port: int) -> bool:
    return any(c.laddr.port == port for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN)


def assert_nothing_is_left(tmp_path: Path, port: int) -> None:
    assert left_running(tmp_path / "scratch") == []
    own = tmp_path / "scratch" / f"dr-encoder-{os.geteuid()}"  # every process of this user has it, for what they share
    assert [path for path in (tmp_path / "scratch").rglob("*") if path != own] == []
    assert not listening(port)


def read_port(line: str) -> int:
    found = re.search(r"127\.0\.0\.1:(\d+)", line)
    assert found, line
    return int(found[1])


def test_three_registered_sites_train_over_tls_and_nothing_is_left(tmp_path: Path) -> None:
    process = start(tmp_path)
    output, _ = process.communicate(timeout=1200)
    assert process.returncode == 0, output
    folder = tmp_path / "results" / "run"
    report = json.loads((folder / "report.json").read_text())
    assert (report["run"]["rounds_run"], report["run"]["clients"]) == (1, 3)
    assert (folder / "adapter" / "adapter_model.safetensors").exists()
    flower = report["communication"]["flower"]
    traffic = json.loads((folder / "traffic.json").read_text())
    assert flower["inbound_bytes"] > traffic["records_up_bytes"] > 0
    assert flower["outbound_bytes"] > traffic["records_down_bytes"] > 0
    assert "Flower's own count" in output
    assert "Flower's own count" not in (folder / "report.md").read_text()
    assert {path.stem for path in (folder / "logs").iterdir()} >= {"superlink", "north", "south", "west"}
    assert not [path for path in folder.rglob("*") if path.is_file() and b"PRIVATE KEY" in path.read_bytes()]
    assert_nothing_is_left(tmp_path, read_port(output))


@pytest.mark.parametrize("interrupt", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_an_interrupted_demonstration_leaves_nothing_either(tmp_path: Path, interrupt: signal.Signals) -> None:
    process = start(tmp_path)
    assert process.stdout
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("flwr run:"):
            break
    time.sleep(5)
    process.send_signal(interrupt)
    rest, _ = process.communicate(timeout=120)
    assert process.returncode == 1, rest
    assert "interrupted; it stopped before its first checkpoint; nothing had been charged; start it anew" in rest
    assert_nothing_is_left(tmp_path, read_port(lines[0]))


def test_a_demonstration_interrupted_in_a_round_is_continued_to_its_end(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "results" / "run")
    process = start(tmp_path, rounds=3)
    wait_for(lambda: any(row["round"] for row in folder.read_metrics()), 600, "no first round")
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1, output
    assert f"python -m workbench.deployment.demo --resume {folder.path}" in output
    assert_nothing_is_left(tmp_path, read_port(output))

    process = start(tmp_path, "--resume", str(folder.path))
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    rows = folder.read_metrics()
    report = json.loads((folder.path / "report.json").read_text())
    print(f"OBSERVED continued: {report['outcome']['stopped_because']}, rounds {[row['round'] for row in rows]}")
    assert report["run"]["rounds_run"] == rows[-1]["round"] >= 2
    assert rows[-1]["replies"] == 3
    assert len(json.loads((folder.path / "traffic.json").read_text())["runs_not_counted"]) == 1
    assert_nothing_is_left(tmp_path, read_port(output))
