"""The launcher, without starting Flower."""

import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from common.config import RunConfig
from server_app.results.units import TRACEBACK
from tests.support.flwr_program import write_flwr
from tests.support.processes import left_running, processes_of
from workbench.simulation import launcher
from workbench.simulation.flower_cli import ask_flower
from workbench.simulation.launcher import LaunchError, Resources, flower_environment
from workbench.stopping import terminate_as_interrupt


def test_flower_gets_a_home_of_its_own_and_no_network(tmp_path: Path) -> None:
    environment = flower_environment(tmp_path)
    assert environment["FLWR_HOME"] == str(tmp_path)
    assert environment["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
    assert environment["FLWR_TELEMETRY_ENABLED"] == "0"
    assert environment["PATH"].startswith(str(Path(sys.executable).parent))


_ENGINE = """import ray, sys
print(ray.init(num_cpus=1, include_dashboard=False).address_info["gcs_address"], flush=True)
sys.stdin.read()"""
_STRANGER = """import sys
from ray._raylet import GcsClient
print(GcsClient(address=sys.argv[1]).internal_kv_keys(b"", namespace=b"session"))"""


def test_the_simulation_engine_obeys_no_stranger(tmp_path: Path) -> None:
    """Ray listens on every address of the machine, and whoever it obeys runs code as its user."""
    environment = flower_environment(tmp_path)
    own = {name: value for name, value in environment.items() if name.startswith("RAY_AUTH")}
    plain = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", _ENGINE],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    ) as engine:
        assert engine.stdout
        address = engine.stdout.readline().strip()

        def said(secret: dict[str, str]) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-c", _STRANGER, address]
            return subprocess.run(
                command, env=plain | secret, capture_output=True, encoding="utf-8", timeout=60, check=False
            )

        for secret in ({}, own | {"RAY_AUTH_TOKEN": flower_environment(tmp_path)["RAY_AUTH_TOKEN"]}):
            assert "InvalidAuthToken" in said(secret).stderr
        assert "session_name" in said(own).stdout


_JOINED = "from ray._private.services import canonicalize_bootstrap_address as joined; print(joined(None))"


def test_the_simulation_engine_joins_no_cluster_that_a_stranger_names(tmp_path: Path) -> None:
    """Ray keeps that name in a folder that everybody may write to: all messages of a run would go there."""
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("192.0.2.9:1", encoding="utf-8")
    for environment, joined in ((os.environ, "192.0.2.9:1"), (flower_environment(tmp_path), "None")):
        found = subprocess.run(
            [sys.executable, "-c", _JOINED],
            env=dict(environment) | {"RAY_TMPDIR": str(tmp_path)},
            capture_output=True,
            encoding="utf-8",
            check=True,
        )
        assert found.stdout.strip() == joined


def test_the_simulation_engine_keeps_its_sockets_in_the_run_s_own_folder() -> None:
    assert flower_environment(Path("/scratch/run"))["RAY_TMPDIR"] == "/scratch/run"
    assert "RAY_TMPDIR" not in flower_environment(Path(f"/{40 * 'a'}")), "no room for a socket's name"


def test_flower_works_in_utf_8_and_asks_no_proxy_for_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "intranet.example.org, 127.0.0.1")
    monkeypatch.delenv("no_proxy", raising=False)
    environment = flower_environment(tmp_path)
    assert environment["PYTHONUTF8"] == "1"
    for name in ("NO_PROXY", "no_proxy"):
        assert environment[name] == "intranet.example.org,127.0.0.1,localhost,::1"


def test_the_superlink_is_found_past_a_dead_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked first is loopback: a company's HTTP_PROXY is not for that."""

    class Healthy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    dead, port = launcher.free_ports(2)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{dead}")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(launcher, "_START_SECONDS", 3.0)
    with HTTPServer(("127.0.0.1", port), Healthy) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        process = subprocess.Popen(["sleep", "60"])
        try:
            launcher._wait_until_healthy(process, port)
        finally:
            process.kill()
            process.wait()
            server.shutdown()


def test_commands_of_flower_ask_no_proxy_for_this_machine(tmp_path: Path) -> None:
    write_flwr(tmp_path, """#!/bin/sh\necho '{"success": true, "said": "'$no_proxy'"}'\n""")
    environment = {"PATH": f"{tmp_path}{os.pathsep}/bin", "no_proxy": "example.org"}
    assert ask_flower("ls", environment=environment)["said"] == "example.org,localhost,127.0.0.1,::1"


_SUPERLINK = """#!/bin/sh
[ "$1" = engine ] && { sleep 60 & wait; }
setsid "$0" engine &
kill -9 $$
"""


def test_what_a_killed_superlink_has_started_is_stopped_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the simulation goes on by itself, and the run cannot be resumed: another process runs it."""
    program = tmp_path / "flower-superlink"
    program.write_text(_SUPERLINK, encoding="utf-8")
    program.chmod(0o755)

    def started(process: subprocess.Popen[bytes], _port: int) -> None:
        process.wait()
        while not processes_of(tmp_path):
            time.sleep(0.05)

    monkeypatch.setattr(launcher, "_wait_until_healthy", started)
    environment = flower_environment(tmp_path)
    path = {"PATH": f"{tmp_path}{os.pathsep}/bin"}
    with (tmp_path / "log").open("w+") as log, launcher._superlink(tmp_path, environment | path, log):
        pass
    assert left_running(tmp_path) == []


@pytest.mark.usefixtures("own_signals")
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGHUP])
def test_who_is_ended_or_loses_the_terminal_cleans_up_and_who_ignores_that_goes_on(sent: signal.Signals) -> None:
    """A run whose terminal was closed left its SuperLink, its simulation and Ray behind."""
    with pytest.raises(KeyboardInterrupt), terminate_as_interrupt():
        signal.raise_signal(sent)
    assert signal.getsignal(sent) is signal.SIG_DFL
    signal.signal(sent, signal.SIG_IGN)
    with terminate_as_interrupt():
        signal.raise_signal(sent)
    assert signal.getsignal(sent) is signal.SIG_IGN


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        ('{"success": true, "runs": [{"status": "finished:failed"}]}', "finished:failed"),
        ('{"success": true, "runs": []}', "unknown (flwr ls launcher said: no run)"),
        ('{"success": false, "error-message": "no connection"}', "unknown (flwr ls launcher --format json said: no c"),
    ],
)
def test_the_status_is_what_flower_lists_and_never_a_guess(tmp_path: Path, printed: str, expected: str) -> None:
    write_flwr(tmp_path, f"#!/bin/sh\necho '{printed}'\n")
    assert launcher._final_status(tmp_path, {"PATH": f"{tmp_path}{os.pathsep}/bin"}).startswith(expected)


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("finished:failed", "the run ended as finished:failed; its log is "),
        ("running", "flwr run ended before the run, which is stopped now; to Flower it was running; its log is "),
    ],
)
def test_a_run_that_goes_on_without_flwr_run_is_not_called_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str, said: str
) -> None:
    monkeypatch.setattr(launcher, "_superlink", lambda *_: nullcontext())
    monkeypatch.setattr(launcher, "_stream", lambda *_: status)
    with (tmp_path / "log").open("w+") as log, pytest.raises(LaunchError) as caught:
        launcher.launch(named(tmp_path), 1, Resources(1), log)
    assert str(caught.value).startswith(said)


APP_ERROR = "[dr-encoder] ERROR: stage 1: none of 10 clients released statistics"
RAY_ERROR = "Exception: The current node timed out during startup. This could happen because the raylet failed to start"
FLOWER_ERROR = "\x1b[91mERROR \x1b[0m:     Exit Code: 700"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ([APP_ERROR, "Traceback", "a.B.FederationError: x", FLOWER_ERROR], APP_ERROR.partition("ERROR: ")[2]),
        (["KeyError: 'a'", "a", "torch.OutOfMemoryError: full", FLOWER_ERROR], "KeyError: 'a' ... torch.OutOfMemory"),
        ([RAY_ERROR, "RuntimeError: An error was encountered. Ending simulation.", FLOWER_ERROR], RAY_ERROR),
        ([FLOWER_ERROR, "INFO: bye"], "ERROR :     Exit Code: 700"),
    ],
)
def test_a_failed_run_names_its_log_and_the_error_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: list[str], expected: str
) -> None:
    def fail(_config: RunConfig, _clients: int, _resources: Resources, log: Any) -> None:
        log.write("\n".join(written))
        log.flush()
        raise LaunchError("the run ended as finished:failed")

    monkeypatch.setattr(launcher, "_launch", fail)
    path = tmp_path / "x.flower.log"
    path.write_text("[dr-encoder] ERROR: é, of an earlier run\n")
    (tmp_path / "x").mkdir()
    with path.open("a") as log, pytest.raises(LaunchError) as caught:
        launcher.launch(named(tmp_path), 1, Resources(1), log)
    assert str(caught.value).startswith(
        f"the run ended as finished:failed; its log is {path}, and its error is: {expected}"
    )

    assert ("--engine inline" in str(caught.value)) is (RAY_ERROR in written)


def named(tmp_path: Path) -> RunConfig:
    return RunConfig.parse({"output.dir": str(tmp_path), "output.name": "x"})


@pytest.mark.parametrize(
    ("written", "kept"),
    [(APP_ERROR, False), (f"{APP_ERROR} {TRACEBACK}", True), (FLOWER_ERROR, True)],
    ids=["the app told why", "the traceback is in the log", "Flower failed"],
)
def test_the_log_of_a_start_that_failed_stays_only_where_it_tells_more_than_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, kept: bool
) -> None:
    def fail(_config: RunConfig, _clients: int, _resources: Resources, log: Any) -> None:
        log.write(written)
        log.flush()
        raise LaunchError("the run ended as finished:failed")

    monkeypatch.setattr(launcher, "_launch", fail)
    path = tmp_path / "x.flower.log"
    with path.open("w") as log, pytest.raises(LaunchError, match="its error is: ") as caught:
        launcher.launch(named(tmp_path), 1, Resources(1), log)
    assert path.exists() is kept is (str(path) in str(caught.value))


def test_a_failed_run_without_any_error_still_names_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise LaunchError("flower-superlink was not ready")

    monkeypatch.setattr(launcher, "_launch", fail)
    with (tmp_path / "log").open("w") as log, pytest.raises(LaunchError, match=r"not ready; its log is \S+/log$"):
        launcher.launch(RunConfig(), 1, Resources(1), log)


def test_ports_are_free_and_distinct() -> None:
    assert len(set(launcher.free_ports(5))) == 5
