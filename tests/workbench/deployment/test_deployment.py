"""What deploy-demo is made of: certificates that verify, keys that only their owner reads, processes that stop."""

import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from unittest.mock import MagicMock

import psutil
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key
from flwr.proto import fleet_pb2
from flwr.supernode.fleet_http_client import FleetHttpClient

from server_app.results.folder import RunFolder
from tests.support.interrupted_runs import say_of_clients, write_checkpoint
from workbench.deployment.certificates import Certificates, make_certificates, make_node_key
from workbench.deployment.demo import _run, demo_config, resumed_config
from workbench.deployment.federation import CONNECTION, DeploymentError, LocalFederation
from workbench.deployment.processes import Processes
from workbench.simulation.launcher import LaunchError
from workbench.stopping import stop_tree

CHILD = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], **{})"


def connect(trusted: Path, served: Certificates, name: str) -> str:
    """The TLS version agreed on with a server that holds ``served``, by a client that asks for ``name``."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(served.certificate, served.key)
        connection, _ = listener.accept()
        try:
            context.wrap_socket(connection, server_side=True).close()
        except ssl.SSLError:
            connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        plain = socket.create_connection(listener.getsockname())
        context = ssl.create_default_context(cafile=str(trusted))
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        with context.wrap_socket(plain, server_hostname=name) as secure:
            return secure.version() or ""
    finally:
        thread.join()
        listener.close()


def test_the_server_certificate_verifies_under_its_authority_for_its_hosts_only(tmp_path: Path) -> None:
    made = make_certificates(tmp_path / "one", ("localhost", "127.0.0.1"))
    assert connect(made.authority, made, "localhost") == connect(made.authority, made, "127.0.0.1") == "TLSv1.3"
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        connect(made.authority, made, "elsewhere.example")
    other = make_certificates(tmp_path / "other")
    with pytest.raises(ssl.SSLCertVerificationError):
        connect(other.authority, made, "localhost")


def test_keys_are_for_their_owner_only_and_never_overwritten(tmp_path: Path) -> None:
    made, public = make_certificates(tmp_path), make_node_key(tmp_path / "keys" / "north")
    private = tmp_path / "keys" / "north"
    for path in (made.key, private):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    key = load_ssh_private_key(private.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert load_ssh_public_key(public.read_bytes()) == key.public_key()
    before = private.read_bytes()
    with pytest.raises(FileExistsError):
        make_node_key(private)
    assert private.read_bytes() == before
    assert len(list(tmp_path.glob("*"))) == 4, "the authority's own key is written nowhere"


@pytest.mark.parametrize("options", ["", "start_new_session=True"], ids=["same session", "own session"])
def test_stopping_ends_a_process_and_what_it_started(tmp_path: Path, options: str) -> None:
    code = CHILD.replace("**{}", options) + "; time.sleep(60)"
    with Processes(tmp_path / "logs") as processes:
        pid = processes.start("parent", [sys.executable, "-c", code], {}, tmp_path)
        deadline = time.monotonic() + 30
        while not (family := psutil.Process(pid).children()) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert family
        assert processes.is_running("parent")
    assert not psutil.pid_exists(pid)
    assert not family[0].is_running() or family[0].status() == psutil.STATUS_ZOMBIE


def test_all_processes_are_stopped_though_stopping_one_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped: list[int] = []

    def interrupted(process: subprocess.Popen[bytes], patience: float) -> None:
        stop_tree(process, patience)
        stopped.append(process.pid)
        if len(stopped) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr("workbench.deployment.processes.stop_tree", interrupted)
    code = [sys.executable, "-c", "import time; time.sleep(60)"]
    with pytest.raises(KeyboardInterrupt), Processes(tmp_path / "logs") as processes:
        pids = [processes.start(name, code, {}, tmp_path) for name in ("one", "two", "three")]
    assert stopped == pids[::-1]
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_a_command_that_flower_fails_with_exit_code_0_is_an_error(tmp_path: Path) -> None:
    """As JSON it reports that the SuperLink cannot be reached, and calls that a success."""
    with Processes(tmp_path / "logs") as processes:
        federation = LocalFederation(tmp_path, processes)
        with pytest.raises(DeploymentError, match="Connection to the SuperLink is unavailable"):
            federation.flwr("ls", CONNECTION)


def test_a_killed_process_can_be_started_again_under_its_name(tmp_path: Path) -> None:
    with Processes(tmp_path / "logs") as processes:
        first = processes.start("one", [sys.executable, "-c", "import time; time.sleep(60)"], {}, tmp_path)
        with pytest.raises(ValueError, match="running already"):
            processes.start("one", ["true"], {}, tmp_path)
        processes.kill("one")
        assert not processes.is_running("one")
        assert processes.start("one", [sys.executable, "-c", "print('again')"], {}, tmp_path) != first
        processes.stop("one")
    assert not psutil.pid_exists(first)


def test_an_interrupted_demonstration_is_continued_under_its_own_configuration(tmp_path: Path) -> None:
    first = demo_config(5, tmp_path, "run")
    RunFolder.create(first).write_config(first, clients=3)
    write_checkpoint(tmp_path / "run")
    again = resumed_config(tmp_path / "run")
    assert again.resume == str(tmp_path / "run")
    assert again.flat() | {"resume": ""} == first.flat()
    say_of_clients(tmp_path / "run", "simulated")
    with pytest.raises(LaunchError, match="its clients are simulated, not deployed; continue it with: dr-encoder run"):
        resumed_config(tmp_path / "run")


def test_a_demonstration_that_never_started_is_not_continued(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=r"config\.toml is missing there"):
        resumed_config(tmp_path / "run")


def test_every_call_that_a_supernode_makes_lies_below_the_path_that_the_proxy_passes() -> None:
    """docs/deployment.md exposes ``/v1/fleet/`` alone; Flower's fleet service is held against it call by call."""
    paths = []

    class Recorder(FleetHttpClient):
        def __init__(self) -> None:
            """No connection."""

        def _unary_unary(self, *, path: str, **_: object) -> None:  # type: ignore[override]
            paths.append(path)

    calls = [method.name for method in fleet_pb2.DESCRIPTOR.services_by_name["Fleet"].methods]
    for call in calls:
        getattr(Recorder(), call)(None)
    assert len(set(paths)) == len(calls) > 10
    assert all(path.startswith("/v1/fleet/") for path in paths), paths


def test_an_interrupted_demonstration_ends_its_server_app_before_its_sites(tmp_path: Path) -> None:
    """Otherwise the rest of the rounds is run, charged and filled with noise while the sites are being stopped.

    ``Processes`` stops the last one first, so what starts the ServerApp has to be started last.
    """
    federation = MagicMock(folder=tmp_path)
    federation.run_log.return_value = ""
    _run(federation, demo_config(1, tmp_path))
    started = [call[0] for call in federation.method_calls if call[0].startswith("start_")]
    assert started == ["start_superlink", *["start_node"] * 3, "start_server_superexec"]


def test_a_process_that_has_ended_by_itself_is_started_again_under_its_name(tmp_path: Path) -> None:
    """Flower's superexec ends where a SuperNode hangs for a minute; the site's next start brings it back."""
    with Processes(tmp_path / "logs") as processes:
        processes.start("one", [sys.executable, "-c", ""], {}, tmp_path)
        deadline = time.monotonic() + 30
        while processes.is_running("one") and time.monotonic() < deadline:
            time.sleep(0.02)
        processes.start("one", [sys.executable, "-c", "import time; time.sleep(60)"], {}, tmp_path)
        assert processes.is_running("one")
        with pytest.raises(ValueError, match="is running already"):
            processes.start("one", [sys.executable, "-c", ""], {}, tmp_path)
