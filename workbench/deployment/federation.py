"""A whole federation on this machine, process for process as it is deployed: start, register, run, stop.

The SuperLink speaks TLS and admits registered nodes only; ServerApp and ClientApps run in processes of their own
(Flower's process isolation), so that a crash of the SuperLink ends no run. Every process has its own ``FLWR_HOME``, as
on a machine of its own.
"""

import secrets
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import tomli_w

from common.config import RunConfig, Scalar, nest
from server_app.errors import CommandError
from workbench.deployment import commands
from workbench.deployment.certificates import Certificates, make_certificates, make_node_key, make_secret
from workbench.deployment.processes import Processes
from workbench.simulation.flower_cli import FlowerCommandError, ask_flower, listed_run
from workbench.simulation.launcher import APP, flower_environment, free_ports

CONNECTION = "deployment"
_START_SECONDS = 90.0
_SUBMIT_SECONDS = 900.0  # Flower walks through every file of the folder, a virtual environment in it included
_POLL_SECONDS = 0.5


class DeploymentError(CommandError):
    """A process did not start, or Flower refused a command; the message says which, and where its log is."""


@dataclass(frozen=True)
class Site:
    """One data holder: its name, what it writes into ``--node-config``, and the file of whose signed apps it runs."""

    name: str
    node_config: Mapping[str, Scalar]
    trusted: Path | None = None


@dataclass
class LocalFederation:
    """SuperLink, SuperNodes and their superexecs under one folder; ``processes`` stops them all.

    Attributes:
        folder: everything is written below it: keys (0600), certificates, state database, logs, ``FLWR_HOME``s.
        processes: by name: ``superlink``, ``superlink-superexec``, ``<site>``, ``<site>-superexec``.
        fleet_address: where SuperNodes dial: the SuperLink itself, or a proxy's address put here before they start.
        extra_environment: variables for every process besides Flower's own.

    """

    folder: Path
    processes: Processes
    extra_environment: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.port = free_ports(1)[0]
        self.address = f"127.0.0.1:{self.port}"
        self.fleet_address = self.address
        self.certificates: Certificates = make_certificates(self.folder / "certificates")
        self._secrets: dict[str, Path] = {}
        self._node_ports: dict[str, int] = {}
        self._locals: dict[str, Certificates] = {}
        home = self._home("operator")
        home.mkdir(parents=True)
        connection = {"address": self.address, "root-certificates": str(self.certificates.authority)}
        (home / "config.toml").write_text(
            tomli_w.dumps({"superlink": {"default": CONNECTION, CONNECTION: connection}}), encoding="utf-8"
        )

    def start_superlink(self) -> None:
        """Start the SuperLink and wait until it answers over TLS; again after ``kill`` it finds its state database."""
        command = commands.superlink(self.port, self.certificates, self.folder / "state.db", self._secret("superlink"))
        self._start("superlink", command)
        self._wait_until_healthy()

    def start_server_superexec(self) -> None:
        """Start what starts ServerApps."""
        command = commands.server_superexec(self.address, self.certificates.authority, self._secret("superlink"))
        self._start("superlink-superexec", command)

    def register(self, site: Site) -> None:
        """Make a key for a site and register its public half with the SuperLink."""
        public = make_node_key(self.key_of(site))
        self.flwr("supernode", "register", str(public), CONNECTION, "--name", site.name)

    def start_node(self, site: Site) -> None:
        """Start the SuperNode of a site; what starts its ClientApps is started once and outlives it."""
        port = self._node_ports.setdefault(site.name, free_ports(1)[0])
        secret = self._secret(site.name)
        authority = self.certificates.authority
        command = commands.supernode(
            self.fleet_address, port, authority, self.key_of(site), secret, site.node_config, site.trusted,
            local=self._local(site.name),
        )  # fmt: skip
        self._start(site.name, command)
        if not self.processes.is_running(f"{site.name}-superexec"):
            self.start_superexec(site)

    def start_superexec(self, site: Site) -> None:
        """Start what starts the ClientApps of a site whose SuperNode was started."""
        authority = self._local(site.name).authority
        command = commands.client_superexec(self._node_ports[site.name], authority, self._secret(site.name))
        self._start(f"{site.name}-superexec", command, home=site.name)

    def key_of(self, site: Site) -> Path:
        """The private key of a site's SuperNode."""
        return self.folder / "keys" / site.name

    def submit(self, config: RunConfig | Mapping[str, Scalar], app: Path | str = APP) -> int:
        """Start a run of ``app``, a folder or ``@publisher/name==version``, and return its id."""
        flat = config.flat() if isinstance(config, RunConfig) else dict(config)
        path = self._home("operator") / f"run-{secrets.token_hex(4)}.toml"
        path.write_text(tomli_w.dumps(nest(flat)), encoding="utf-8")
        return int(self.flwr("run", str(app), CONNECTION, "-c", str(path), seconds=_SUBMIT_SECONDS)["run-id"])

    def run_state(self, run_id: int) -> dict[str, Any]:
        """What Flower tells of a run: ``status`` (``finished:completed``, ...), bytes, times."""
        with _flower_errors():
            return listed_run(CONNECTION, run_id, self._home("operator"), self.environment("operator"))

    def wait(self, run_id: int, timeout: float, meanwhile: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """Wait until a run has finished and return its last state; ``DeploymentError`` after ``timeout`` seconds.

        ``meanwhile`` is called between two looks.
        """
        deadline = time.monotonic() + timeout
        while not str((state := self.run_state(run_id))["status"]).startswith("finished"):
            if time.monotonic() > deadline:
                raise DeploymentError(
                    f"run {run_id} is {state['status']} after {timeout:.0f} s: {self.run_log(run_id)}"
                )
            meanwhile()
            time.sleep(_POLL_SECONDS)
        return state

    def run_log(self, run_id: int) -> str:
        """What the ServerApp of a run has printed so far."""
        done = subprocess.run(  # noqa: S603 - fixed program, no shell
            ["flwr", "log", str(run_id), CONNECTION, "--show"],  # noqa: S607 - found on the environment's own PATH
            cwd=self._home("operator"), env=self.environment("operator"), capture_output=True, check=False, timeout=120,
            encoding="utf-8", errors="replace",
        )  # fmt: skip
        return done.stdout + done.stderr

    def flwr(self, *arguments: str, seconds: float = 120.0) -> dict[str, Any]:
        """What an operator's ``flwr`` command prints as JSON; ``DeploymentError`` when it fails or takes too long."""
        home, environment = self._home("operator"), self.environment("operator")
        with _flower_errors():
            return ask_flower(*arguments, folder=home, environment=environment, seconds=seconds)

    def environment(self, home: str) -> dict[str, str]:
        """The environment of a process whose ``FLWR_HOME`` is called ``home``."""
        return flower_environment(self._home(home)) | {
            "XDG_RUNTIME_DIR": str(self._runtime()),
            **self.extra_environment,
        }

    def _start(self, name: str, command: list[str], home: str = "") -> None:
        self.processes.start(name, command, self.environment(home or name), self._home(home or name))

    def _home(self, name: str) -> Path:
        return self.folder / "home" / name

    def _runtime(self) -> Path:
        folder = self.folder / "runtime"
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    def _secret(self, name: str) -> Path:
        if name not in self._secrets:
            self._secrets[name] = make_secret(self.folder / "secrets" / name, secrets.token_bytes(32))
        return self._secrets[name]

    def _local(self, site: str) -> Certificates:
        """By which a site's superexec knows its SuperNode."""
        if site not in self._locals:
            self._locals[site] = make_certificates(self.folder / "local" / site)
        return self._locals[site]

    def _wait_until_healthy(self) -> None:
        trust = ssl.create_default_context(cafile=str(self.certificates.authority))
        deadline = time.monotonic() + _START_SECONDS
        log = self.processes.log("superlink")
        while time.monotonic() < deadline:
            if (code := self.processes.exit_code("superlink")) is not None:
                raise DeploymentError(f"flower-superlink ended at once with code {code}; its log is {log}")
            try:
                if httpx.get(f"https://{self.address}/health", verify=trust, timeout=1.0, trust_env=False).is_success:
                    return
            except httpx.HTTPError:
                time.sleep(0.2)
        raise DeploymentError(f"flower-superlink was not ready within {_START_SECONDS:.0f} s; its log is {log}")


@contextmanager
def _flower_errors() -> Iterator[None]:
    """What Flower's commands refuse, as a ``DeploymentError``."""
    try:
        yield
    except FlowerCommandError as error:
        raise DeploymentError(str(error)) from None
