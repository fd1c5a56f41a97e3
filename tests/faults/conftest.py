"""One federation of real processes for all tests of a module, and what they look at."""

import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from common.config import RunConfig
from server_app.log import read_events
from server_app.privacy.ledger import Ledger
from server_app.results.folder import RunFolder
from workbench.deployment.demo import demo_sites
from workbench.deployment.federation import LocalFederation, Site
from workbench.deployment.processes import Processes
from workbench.stopping import terminate_as_interrupt

_ANSWERED = re.compile(r"run=(\d+) round=(\d+) node=(\d+) answered")


class Field:
    """A federation under test: three sites with data of their own, workers included."""

    def __init__(self, federation: LocalFederation) -> None:
        self.federation = federation
        self.sites = {site.name: _free_in_trust(site) for site in demo_sites(federation.folder / "data")}
        self.results = federation.folder / "results"

    def start(self) -> None:
        self.federation.start_superlink()
        self.federation.start_server_superexec()
        for site in self.sites.values():
            self.federation.register(site)
            self.federation.start_node(site)

    def log(self, name: str) -> str:
        """What process ``name`` has printed so far."""
        return self.federation.processes.log(name).read_text(errors="replace", encoding="utf-8")

    def config(self, name: str, rounds: int = 2, **changes: Any) -> RunConfig:
        flat: dict[str, Any] = {
            "num-server-rounds": rounds,
            "federation.num-clients": len(self.sites),
            "federation.round-timeout": 300.0,
            "privacy.epsilon": 0.0,
            "privacy.noise-multiplier": 1.0,
            "privacy.sampling-rate": 1.0,
            "stage-one.sampling-rate": 1.0,
            "evaluation.every": rounds + 1,
            "output.dir": str(self.federation.folder / "results"),
            "output.name": name,
        }
        return RunConfig.parse(flat | changes)

    def folder(self, name: str) -> RunFolder:
        return RunFolder(self.results / name)

    def events(self, name: str, event: str) -> list[dict[str, Any]]:
        """The events of one kind so far, oldest first; none before the run has a folder."""
        return [row for row in read_events(self.folder(name).events) if row["event"] == event]

    def when(self, name: str, event: str) -> datetime:
        """When a run's first event of a kind happened."""
        return datetime.fromisoformat(self.events(name, event)[0]["time"])

    def round_has_started(self, name: str, number: int) -> bool:
        return any(row["round"] == number for row in self.events(name, "round_started"))

    def rounds_done(self, name: str) -> int:
        return max((row["round"] for row in self.folder(name).read_metrics()), default=0)

    def wait_rounds(self, name: str, number: int, seconds: float = 600.0) -> None:
        """Until a run has done ``number`` rounds; a run that fails before it fails the test with its reason."""

        def done() -> bool:
            if number <= (rounds := self.rounds_done(name)):
                return True
            failed = self.events(name, "run_failed")
            assert not failed, f"{name} failed after {rounds} rounds: {failed[-1]['reason']}"
            return False

        wait_for(done, seconds, f"{name}: no round {number}")

    def process(self, owner: str, program: str, *, born_after: float = 0.0) -> psutil.Process:
        """Flower's program among what a superexec has started, as soon as there is one (of that age)."""

        def find() -> psutil.Process | None:
            family = psutil.Process(self.federation.processes.pid(owner)).children(recursive=True)
            return next((p for p in family if program in _line(p) and p.create_time() > born_after), None)

        return wait_for(find, 300.0, f"no {program} under {owner}")

    def answers(self, run: int) -> Counter[tuple[str, int]]:
        """How often each node has computed a release in each round, by its own log."""
        found: Counter[tuple[str, int]] = Counter()
        for site in self.sites:
            text = self.log(f"{site}-superexec")
            found.update((node, int(number)) for of, number, node in _ANSWERED.findall(text) if int(of) == run)
        return found

    def check_books(self, name: str, *runs: int) -> Ledger:
        """The ledger covers every release that any node has computed, in the first and in resumed runs.

        And every aggregate that was released carries the noise that it was charged for, whoever was missing in it.
        """
        ledger = Ledger(self.folder(name).ledger)
        answers: Counter[tuple[str, int]] = Counter()
        for run in runs:
            answers += self.answers(run)
        assert answers, "nothing was released, so nothing was shown"
        for (node, number), times in answers.items():
            assert times <= ledger.rounds_charged(number), (node, number)
        totals = [event for event in read_events(self.folder(name).events) if event["event"] == "stage_one_answered"]
        totals += [row for row in self.folder(name).read_metrics() if row["round"]]
        sites = len(self.sites)
        surplus = (sites / (sites - 1)) ** 0.5  # the shares of all but one colluder make up what is promised
        for row in totals:
            print(f"OBSERVED noise: {row['replies']} of {row['cohort']} replies, {row['noise_present']:.9g} present")
            assert 0 < row["noise_promised"] <= row["noise_present"] < 1.001 * surplus * row["noise_promised"], row
        return ledger


def _free_in_trust(site: Site) -> Site:
    """The same site without the demo's demand for secure aggregation: most faults are shown without it, too."""
    kept = {key: value for key, value in site.node_config.items() if key != "require-secure-aggregation"}
    return Site(site.name, kept, site.trusted)


def wait_for(look: Callable[[], Any], seconds: float, complaint: str) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, complaint
        time.sleep(0.02)
    return found


def has_ended(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@contextmanager
def nothing_left(folder: Path) -> Iterator[None]:
    """When the block ends, however it does, so does every process that was started with ``folder`` in its environment.

    Those of Flower lead sessions of their own and outlive what started them; a frozen one ends by SIGKILL only.
    """
    try:
        yield
    finally:
        while found := [process for process in psutil.process_iter() if _belongs(process, folder)]:
            for process in found:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(found, timeout=5.0)


def _belongs(process: psutil.Process, folder: Path) -> bool:
    try:
        other = process.pid != os.getpid() and not has_ended(process)
        return other and any(str(folder) in value for value in process.environ().values())
    except psutil.Error:
        return False


@pytest.fixture(scope="session", autouse=True)
def _stoppable() -> Iterator[None]:
    """SIGTERM unwinds the fixtures as Ctrl-C does."""
    with terminate_as_interrupt():
        yield


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    folder: Path = tmp_path_factory.mktemp("federation")
    with nothing_left(folder), Processes(folder / "logs") as processes:
        started = Field(LocalFederation(folder, processes))
        started.start()
        yield started
