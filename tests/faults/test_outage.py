"""The uplink of all sites goes down for three minutes, for real: they live in a network namespace behind one cable.

Packets vanish without a word, as they do behind a firewall or a dead router: nobody is told that a connection is gone.
"""

import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import tomli_w

from server_app.privacy.ledger import Ledger
from tests.faults.conftest import Field, nothing_left
from workbench.deployment import commands
from workbench.deployment.certificates import make_certificates
from workbench.deployment.federation import CONNECTION, LocalFederation
from workbench.deployment.processes import Processes

HERE, THERE = "10.213.71.1", "10.213.71.2"
OUTAGE_SECONDS = 180.0
pytestmark = pytest.mark.faults


class Cable:
    """A network namespace, and the pair of interfaces that is its only way out."""

    def __init__(self) -> None:
        self.name = f"dre{secrets.token_hex(3)}"
        self.near, self.far = f"{self.name}a", f"{self.name}b"
        ip("netns", "add", self.name)
        ip("link", "add", self.near, "type", "veth", "peer", "name", self.far, "netns", self.name)
        ip("addr", "add", f"{HERE}/30", "dev", self.near)
        ip("-n", self.name, "addr", "add", f"{THERE}/30", "dev", self.far)
        ip("-n", self.name, "link", "set", "lo", "up")
        ip("-n", self.name, "link", "set", self.far, "up")
        self.set("up")

    def set(self, state: str) -> None:
        """``down`` at our end: what the sites send is lost on the way, and nothing tells them so."""
        ip("link", "set", self.near, state)

    def remove(self) -> None:
        for what in (["link", "del", self.near], ["netns", "del", self.name]):
            with suppress(subprocess.CalledProcessError):
                ip(*what)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


class Apart(LocalFederation):
    """Sites and all that is theirs run in the namespace; the server stays outside and listens on both sides."""

    cable: Cable

    def connect(self, cable: Cable) -> None:
        self.cable = cable
        self.fleet_address = f"{HERE}:{self.port}"
        self.certificates = make_certificates(self.folder / "certificates-of-both", ("localhost", "127.0.0.1", HERE))
        connection = {"address": self.address, "root-certificates": str(self.certificates.authority)}
        (self.folder / "home" / "operator" / "config.toml").write_text(
            tomli_w.dumps({"superlink": {"default": CONNECTION, CONNECTION: connection}})
        )

    def start_superlink(self) -> None:
        database, secret = self.folder / "state.db", self._secret("superlink")
        command = commands.superlink(self.port, self.certificates, database, secret, host="0.0.0.0")  # noqa: S104
        self._start("superlink", command)
        self._wait_until_healthy()

    def _start(self, name: str, command: list[str], home: str = "") -> None:
        inside = [] if name.startswith("superlink") else ["ip", "netns", "exec", self.cable.name]
        super()._start(name, inside + command, home)


@pytest.fixture(scope="module")
def cable() -> Iterator[Cable]:
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("network namespaces need root and the program ip")
    try:
        made = Cable()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"this kernel or container allows no network namespace: {error.stderr.strip()}")
    try:
        yield made
    finally:
        made.remove()


@pytest.fixture(scope="module")
def apart(cable: Cable, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    folder: Path = tmp_path_factory.mktemp("federation")
    with nothing_left(folder), Processes(folder / "logs") as processes:
        federation = Apart(folder, processes)
        federation.connect(cable)
        field = Field(federation)
        field.start()
        yield field


def test_three_minutes_without_any_site_cost_one_charged_round_at_most(apart: Field, cable: Cable) -> None:
    run = apart.federation.submit(apart.config("outage", rounds=6))
    apart.wait_rounds("outage", 2, 900)
    cable.set("down")
    cut, began = apart.rounds_done("outage"), time.monotonic()
    time.sleep(OUTAGE_SECONDS)
    charged = Ledger(apart.folder("outage").ledger).charges
    waiting = apart.events("outage", "waiting_for_nodes")
    cable.set("up")
    back = time.monotonic()
    state = apart.federation.wait(run, 1200.0)
    rows = [(row["round"], row["replies"], round(row["seconds"])) for row in apart.folder("outage").read_metrics()[1:]]
    print(f"OBSERVED outage of {back - began:.0f} s after round {cut}: rounds {rows}")
    print(f"OBSERVED {len(waiting)} times waiting_for_nodes by then; {apart.events('outage', 'nodes_are_back')}")
    assert state["status"] == "finished:completed", apart.federation.run_log(run)[-3000:]
    assert [number for number, _, _ in rows] == [1, 2, 3, 4, 5, 6]
    empty = [number for number, replies, _ in rows if replies == 0]
    assert len(empty) <= 1, rows
    rounds = [charge for charge in charged if not charge.label.startswith("stage 1")]
    assert len(rounds) <= cut + 2, "that which was under way, and one more if it had all its replies already"
    assert waiting, "the run told nobody that it waits"
    assert rows[-1][1] == 3, "all are back"
    assert apart.check_books("outage", run).rounds_charged(6) == 1
