"""The proxy configuration of docs/deployment.md, run by nginx: it passes the fleet path and no other."""

import http.client
import re
import shutil
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from flwr.supercore.retry import http_retry

from tests.faults.conftest import Field, nothing_left, wait_for
from workbench.deployment.federation import DeploymentError, LocalFederation
from workbench.deployment.processes import Processes
from workbench.simulation.launcher import free_ports

NGINX = shutil.which("nginx")
pytestmark = [pytest.mark.faults, pytest.mark.skipif(NGINX is None, reason="nginx is not installed")]
PAGE = Path(__file__).parents[2] / "docs" / "deployment.md"
AROUND = """daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
events {{}}
http {{
    log_format paths '$status $request_uri'; access_log {folder}/access.log paths;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
{server}
}}
"""
CLOSED = [
    "/v1/control/list-runs",
    "/v1/control/register-node",
    "/v1/runtime/acquire-task",
    "/health",
    "/",
    "/v1/fleet/../control/list-runs",
    "/v1/fleet/..%2fcontrol/list-runs",
    "/v1/fleet/%2e%2e/control/list-runs",
    "/v1//control/list-runs",
]


def configuration(folder: Path, port: int, federation: LocalFederation) -> str:
    """The page's ``server`` block with this machine's addresses and files, and what nginx needs around it."""
    found = re.search(r"```nginx\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found, "no nginx configuration on the page"
    server = found[1]
    files = federation.certificates
    for written, here in {
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        "/etc/fl/server.pem": str(files.certificate),
        "/etc/fl/server.key": str(files.key),
        "/etc/fl/ca.crt": str(files.authority),
        "https://127.0.0.1:8000/": f"https://{federation.address}/",
    }.items():
        assert server.count(written) >= 1, written
        server = server.replace(written, here)
    return AROUND.format(folder=folder, server=server)


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    """A federation whose SuperNodes know only the proxy's address."""
    folder: Path = tmp_path_factory.mktemp("federation")
    with nothing_left(folder), Processes(folder / "logs") as processes:
        federation = LocalFederation(folder, processes)
        port = free_ports(1)[0]
        written = folder / "nginx"
        written.mkdir()
        (written / "nginx.conf").write_text(configuration(written, port, federation))
        assert NGINX
        command = [NGINX, "-p", str(written), "-e", str(written / "error.log"), "-c", str(written / "nginx.conf")]
        processes.start("nginx", command, {}, written)
        federation.fleet_address = f"127.0.0.1:{port}"
        field = Field(federation)
        field.start()
        yield field


def passed(field: Field) -> list[tuple[int, str]]:
    """Status and path of all requests that the proxy has answered."""
    lines = (field.federation.folder / "nginx" / "access.log").read_text().splitlines()
    return [(int(line.split(" ", 1)[0]), line.split(" ", 1)[1]) for line in lines]


def ask(field: Field, address: str, path: str, body: bytes = b"") -> int:
    """The status of a POST to exactly this path, which no client library has tidied up."""
    trust = ssl.create_default_context(cafile=str(field.federation.certificates.authority))
    connection = http.client.HTTPSConnection(address, context=trust, timeout=30.0)
    try:
        connection.request("POST", path, body, {"content-type": "application/x-protobuf"})
        return connection.getresponse().status
    finally:
        connection.close()


def test_a_run_goes_through_the_proxy_though_the_superlink_behind_it_is_killed_and_comes_back(behind: Field) -> None:
    federation = behind.federation
    run = federation.submit(behind.config("proxied", rounds=3))
    behind.wait_rounds("proxied", 1, 900)
    federation.processes.kill("superlink")
    wait_for(lambda: any(status == 502 for status, _ in passed(behind)), 60, "nobody dialled while it was away")
    federation.start_superlink()
    state = federation.wait(run, 1800.0)
    assert state["status"] == "finished:completed", federation.run_log(run)[-3000:]
    rows = [(row["round"], row.get("replies", 0)) for row in behind.folder("proxied").read_metrics() if row["round"]]
    paths = {path for status, path in passed(behind) if status == 200}
    print(f"OBSERVED through the proxy: rounds {rows}; {len(passed(behind))} requests to {sorted(paths)}")
    assert [number for number, _ in rows] == [1, 2, 3]
    assert rows[-1] == (3, 3)
    assert all(path.startswith("/v1/fleet/") for path in paths)
    behind.check_books("proxied", run)


@pytest.mark.parametrize("path", CLOSED)
def test_no_other_path_is_passed(behind: Field, path: str) -> None:
    assert ask(behind, behind.federation.fleet_address, path) == 403


def test_a_path_that_two_readers_could_read_differently_arrives_as_the_proxy_has_read_it(behind: Field) -> None:
    plain, twisted = "/v1/fleet/pull-messages", "/v1/control/list-runs/../../fleet/pull-messages"
    statuses = [ask(behind, behind.federation.fleet_address, path) for path in (plain, twisted)]
    assert statuses[0] == statuses[1] not in {403, 404}
    assert ask(behind, behind.federation.address, twisted) == 404, "the SuperLink does not tidy up paths"


def test_the_control_path_that_the_proxy_refuses_is_open_behind_it(behind: Field) -> None:
    """So it is the proxy that keeps it closed, and the paths above are the right ones to try."""
    for path in CLOSED[:3]:
        assert ask(behind, behind.federation.address, path) not in {403, 404}


@pytest.mark.parametrize(
    ("path", "most"), [("pull-messages", 64 << 10), ("send-node-heartbeat", 64 << 10), ("push-messages", 4 << 20)]
)
def test_only_replies_may_be_long(behind: Field, path: str, most: int) -> None:
    """The SuperLink reads all of it before it asks who sends it."""
    address = behind.federation.fleet_address
    assert ask(behind, address, f"/v1/fleet/{path}", bytes(most - 1024)) not in {403, 404, 413}
    assert ask(behind, address, f"/v1/fleet/{path}", bytes(most + 1)) == 413
    assert ask(behind, address, "/v1/fleet/push-object", bytes(8 << 20)) not in {403, 404, 413}


def test_too_many_connections_are_refused_with_the_status_that_supernodes_wait_out(behind: Field) -> None:
    """Each of them a request whose body never comes, which is how a few could hold all workers of a server."""
    host, port = behind.federation.fleet_address.split(":")
    trust = ssl.create_default_context(cafile=str(behind.federation.certificates.authority))
    request = f"POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1000\r\n\r\n".encode()
    with ExitStack() as opened:
        for _ in range(64):  # the sites' own connections are among those that count
            plain = opened.enter_context(socket.create_connection((host, int(port)), 30.0))
            opened.enter_context(trust.wrap_socket(plain, server_hostname=host)).sendall(request)
        wait_for(lambda: ask(behind, f"{host}:{port}", "/v1/fleet/pull-messages") == 503, 30.0, "no limit")
    assert httpx.codes.SERVICE_UNAVAILABLE in http_retry._RETRYABLE_STATUS_CODES
    wait_for(lambda: ask(behind, f"{host}:{port}", "/v1/fleet/pull-messages") != 503, 60.0, "it stays closed")


def test_an_operator_s_command_is_refused_by_the_proxy(behind: Field) -> None:
    federation = behind.federation
    home = federation.folder / "home" / "operator" / "config.toml"
    kept = home.read_text()
    home.write_text(kept.replace(federation.address, federation.fleet_address))
    try:
        with pytest.raises(DeploymentError) as raised:
            federation.flwr("ls", "deployment")
    finally:
        home.write_text(kept)
    print(f"OBSERVED flwr ls at the proxy: {raised.value}")
