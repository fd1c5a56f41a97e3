"""``dr-encoder check-site``: a site that is ready, and each thing that may be wrong with one."""

import http.server
import json
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from common.demo.tasks import training_examples
from tests.support.tiny import ledger_in, write_jsonl
from workbench.cli.main import app
from workbench.deployment import site_check as module
from workbench.deployment.certificates import Certificates, make_certificates
from workbench.deployment.site_check import Finding
from workbench.deployment.site_files import read_run, read_site_env

ROOT = Path(__file__).parents[2]
RUN = {**read_run(None), "lora.rank": 2, "train.batch-size": 4}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "site.jsonl", training_examples("elicitation", 8, 1).to_list())


class Server:
    """A TLS server that says what time it is by its own clock."""

    ahead = 0.0

    def __init__(self, folder: Path) -> None:
        self.files: Certificates = make_certificates(folder)
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.send_response(403)
                self.end_headers()

            def date_time_string(self, timestamp: float | None = None) -> str:
                return super().date_time_string(int(time.time() + outer.ahead))

            def log_message(self, *_: object) -> None:
                """Silent."""

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.files.certificate, self.files.key)
        self.http.socket = context.wrap_socket(self.http.socket, server_side=True)
        self.address = f"127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path / "certificates")
    yield made
    made.http.shutdown()
    made.http.server_close()


def check(node_config: str = "", superlink: str = "", authority: str = "") -> dict[str, Finding]:
    return {finding.what: finding for finding in module.check_site(node_config, RUN, superlink, authority)}


def test_a_site_that_is_ready_passes_everything_and_nothing_is_written(
    data: Path, server: Server, tmp_path: Path
) -> None:
    ledger = ledger_in(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    found = check(
        f'data-path="{data}" max-epsilon=8.0 max-releases=9 ledger-path="{ledger}"',
        server.address,
        str(server.files.authority),
    )
    assert {what: finding.passed for what, finding in found.items()} == {
        "node config": True, "limits": True, "limits and run": True, "data and model": True, "server": True,
    }, found  # fmt: skip
    assert found["data and model"].text.startswith(f"8 examples from {data}, model demo on ")
    assert "max-releases 9" in found["limits"].text
    assert "valid for 30 days" in found["server"].text or "valid for 29 days" in found["server"].text
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert after == before, "no release, no charge"


def test_each_wrong_thing_is_named_and_the_other_checks_go_on(tmp_path: Path, data: Path, server: Server) -> None:
    found = check(f'data-path="{tmp_path}/absent.jsonl"', server.address, str(server.files.authority))
    assert {what for what, finding in found.items() if not finding.passed} == {"limits", "data and model"}
    assert "its node config has data-path and no max-epsilon" in found["limits"].text
    found = check("max-releases=1.5", server.address, str(server.files.authority))
    assert {what: finding.passed for what, finding in found.items()} == {"node config": False, "server": True}
    assert "max-releases = 1.5: write a whole number" in found["node config"].text
    assert not check("max-releases")["node config"].passed
    limits = f'max-epsilon=8.0 ledger-path="{ledger_in(tmp_path)}"'
    absent = check(f'data-path="{tmp_path}/absent.jsonl" {limits}')["data and model"]
    assert (absent.passed, "absent.jsonl" in absent.text) == (False, True)
    wrong = write_jsonl(tmp_path / "wrong.jsonl", [{"question": "a", "answer": "b"}])
    assert '"prompt"' in check(f'data-path="{wrong}" {limits}')["data and model"].text
    gap = write_jsonl(
        tmp_path / "gap.jsonl", [{"prompt": "a", "completion": " red"}, {"prompt": "b", "completion": ""}]
    )
    assert "row 2" in check(f'data-path="{gap}" {limits}')["data and model"].text


TERMS = {"federation.num-clients": 4, "privacy.epsilon": 0.0, "privacy.noise-multiplier": 4.0, "privacy.delta": 0.0}


@pytest.mark.parametrize(
    ("limits", "changes", "passed", "said"),
    [
        ("max-epsilon=18.0", {}, True, "the run asks a client for at most 9 messages, all within the limits"),
        ("max-epsilon=18.0 min-noise-multiplier=9", {}, False, "below its min-noise-multiplier = 9"),
        ("max-epsilon=18.0 max-clip-norm=0.5", {}, False, "above its max-clip-norm = 0.5"),
        ("max-epsilon=18.0 max-releases=5", {}, False, "leave room for 5 of them"),
        ("max-epsilon=1.0", {}, False, "leave room for 1 of them"),
        (
            "max-epsilon=18.0 max-releases=5",
            {"privacy.sampling-rate": 0.5},
            True,
            "in about 4 of 8 rounds; max-releases = 5, max-epsilon = 18 leave room for 5",
        ),
        ("max-epsilon=18.0", {"federation.num-clients": 0}, True, "which does not say federation.num-clients"),
        ("max-epsilon=18.0", {"privacy.trust": "central"}, False, "its message would carry no noise of its own"),
    ],
)
def test_the_limits_are_compared_with_what_the_run_asks_for(
    tmp_path: Path,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    limits: str,
    changes: dict[str, Any],
    passed: bool,
    said: str,
) -> None:
    """All was ok of a site whose limits refused every message of that run."""
    rounds = {"num-server-rounds": 8, "privacy.trust": "local", "privacy.sampling-rate": 1.0}
    for key, value in {**TERMS, **rounds, **changes}.items():
        monkeypatch.setitem(RUN, key, value)
    found = check(f'data-path="{data}" {limits} ledger-path="{ledger_in(tmp_path)}"')["limits and run"]
    assert (found.passed, said in found.text) == (passed, True), found.text


def test_a_site_that_would_be_late_with_every_answer_is_told(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = f'data-path="{data}" max-epsilon=8.0 ledger-path="{ledger_in(tmp_path)}"'
    assert " loaded in " in check(limits)["data and model"].text
    monkeypatch.setattr(module, "_start", lambda: 2.0)
    padded = check(f"{limits} answer-seconds=700.0")["data and model"]
    assert (padded.passed, "takes 700 s here (answer-seconds = 700)" in padded.text) == (False, True)
    short = check(f"{limits} answer-seconds=0.001")
    assert not short["data and model"].passed
    assert "answer-seconds = 0.001: a first answer takes" in short["data and model"].text
    assert not check(f"{limits} answer-seconds=1.9")["data and model"].passed, "a worker's start is in it"
    assert "answer-seconds 0.001" in short["limits"].text
    monkeypatch.setitem(RUN, "federation.round-timeout", 1e-6)
    late = check(limits)["data and model"]
    assert (late.passed, "federation.round-timeout = 1e-06 s" in late.text) == (False, True)


def test_a_ledger_that_every_user_may_write_is_found(tmp_path: Path, data: Path) -> None:
    ledger = ledger_in(tmp_path)
    Path(ledger).chmod(0o666)
    assert "chmod o-w" in check(f'data-path="{data}" max-epsilon=8.0 ledger-path="{ledger}"')["limits"].text


def test_a_ledger_that_is_not_there_is_found_before_the_first_message(tmp_path: Path, data: Path) -> None:
    text = check(f'data-path="{data}" max-epsilon=8.0 ledger-path="{tmp_path}/none/ledger.jsonl"')["limits"].text
    assert text.startswith(f"ledger-path = {tmp_path}/none/ledger.jsonl: no ledger there")
    assert "python -m client_app.new_ledger" in text


@pytest.mark.parametrize("content", [b"", b'{"schema": 1}\n', b'{"schema": 1, "releases": 0, "squared-mu": 0.0'])
def test_a_ledger_that_a_run_would_refuse_is_found_before_the_first_message(
    tmp_path: Path, data: Path, content: bytes
) -> None:
    ledger = tmp_path / "ledger.jsonl"
    ledger.write_bytes(content)
    finding = check(f'data-path="{data}" max-epsilon=8.0 ledger-path="{ledger}"')["limits"]
    assert (finding.passed, "no ledger that this code wrote" in finding.text) == (False, True)


def test_what_was_spent_is_told_and_that_a_ledger_is_full_fails(tmp_path: Path, data: Path) -> None:
    """Of a full one a run is told nothing: this is where the site itself may learn of it."""
    ledger = Path(ledger_in(tmp_path))
    limits = f'data-path="{data}" ledger-path="{ledger}"'
    assert "0 messages, epsilon 0 at" in check(f"{limits} max-epsilon=8.0")["limits"].text
    spent = {"schema": 1, "releases": 4, "squared-mu": 1.0, "slack": 0.0, "message": "a"}
    ledger.write_text(json.dumps(spent) + "\n", encoding="utf-8")
    found = check(f"{limits} max-epsilon=8.0")["limits"]
    assert found.passed
    assert "4 messages, epsilon 4.38 at policy-delta 1e-05" in found.text
    for most in ("max-epsilon=4.0", "max-epsilon=8.0 max-releases=4"):
        full = check(f"{limits} {most}")["limits"]
        assert (full.passed, "nothing but noise" in full.text) == (False, True)
    assert check(f"{limits} max-epsilon=0.0")["limits"].passed


@pytest.mark.parametrize(("ahead", "said"), [(30.0, "30 s behind"), (-30.0, "30 s ahead of"), (1.0, "")])
def test_a_clock_that_flower_would_turn_away_is_told(server: Server, ahead: float, said: str) -> None:
    server.ahead = ahead
    finding = check("", server.address, str(server.files.authority))["server"]
    assert finding.passed is not bool(said)
    near = {said, said.replace("30", "29"), said.replace("30", "31")}
    assert any(text in finding.text for text in near)


def test_a_certificate_that_ends_soon_or_is_nobody_s_is_told(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "CERTIFICATE_VERIFY_FAILED" in check("", server.address)["server"].text
    later = SimpleNamespace(time=lambda: time.time() + 20 * 86400, monotonic=time.monotonic)
    monkeypatch.setattr(module, "time", later)
    finding = check("", server.address, str(server.files.authority))["server"]
    assert (finding.passed, "ends in 10.0 days" in finding.text or "ends in 9.9 days" in finding.text) == (False, True)


@pytest.mark.parametrize("superlink", ["fl.example.org", "127.0.0.1:1"])
def test_a_server_that_cannot_be_asked_is_told(superlink: str) -> None:
    finding = check("", superlink)["server"]
    assert not finding.passed
    assert superlink in finding.text


def test_the_unit_s_file_is_read_as_systemd_reads_it() -> None:
    found = read_site_env(ROOT / "systemd" / "site.env")
    assert found["SUPERLINK"] == "fl.example.org:443"
    assert found["NODE_CONFIG"].startswith('data-path="/srv/dr-encoder/site.jsonl" max-epsilon=')


def test_the_command_ends_with_1_when_anything_failed(data: Path, tmp_path: Path) -> None:
    env, run = tmp_path / "site.env", tmp_path / "run.toml"
    env.write_text(f'NODE_CONFIG=\'data-path="{data}" max-epsilon=8.0 ledger-path="{ledger_in(tmp_path)}"\'\n')
    run.write_bytes(b"\xef\xbb\xbflora.rank = 2\r\n")  # as some editors save it
    runner: Any = CliRunner()
    good = runner.invoke(app, ["check-site", "--site-env", str(env), "--config", str(run)])
    assert (good.exit_code, good.output.count("ok  ")) == (0, 4), good.output
    env.write_text(f"NODE_CONFIG='data-path=\"{tmp_path}/other.jsonl\"'\n")
    (tmp_path / "other.jsonl").write_text(json.dumps({"question": "a"}) + "\n")
    bad = runner.invoke(app, ["check-site", "--site-env", str(env), "--config", str(run)])
    assert (bad.exit_code, "FAIL data and model" in bad.output) == (1, True)
    run.write_text("lora.rnk = 2\n")
    refused = runner.invoke(app, ["check-site", "--config", str(run)])
    assert (refused.exit_code, "lora.rnk: unknown key" in refused.output) == (1, True)
