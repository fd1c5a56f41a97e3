"""The health program of the containers, against servers that answer, refuse, or are not there."""

import http.server
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from workbench.deployment.certificates import make_certificates
from workbench.deployment.health import answers


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 500)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture(params=["http", "https"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Address and certificate file of a server."""
    authority = ""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        if request.param == "https":
            files = make_certificates(tmp_path)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(files.certificate, files.key)
            made.socket = context.wrap_socket(made.socket, server_side=True)
            authority = str(files.authority)
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield f"{request.param}://127.0.0.1:{made.server_address[1]}", authority
        made.shutdown()


def test_what_answers_with_success_is_healthy_and_nothing_else(server: tuple[str, str]) -> None:
    address, authority = server
    assert answers(f"{address}/health", authority) == ""
    assert "500" in answers(f"{address}/else", authority)
    assert answers(address.replace("https", "tcp").replace("http", "tcp")) == ""


def test_a_proxy_of_the_environment_is_not_asked(server: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert answers(f"{server[0]}/health", server[1]) == ""


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/health", "tcp://127.0.0.1:1", "nonsense"])
def test_what_is_not_there_is_not_healthy(url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "workbench.deployment.health", url], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith(url)
    assert "Traceback" not in done.stderr
