"""One federation of real processes for all tests of a module, and what they look at."""

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from common.config import RunConfig
from common.privacy.ledger import Ledger
from server_app.deployment.demo import demo_sites
from server_app.deployment.federation import LocalFederation, Site
from server_app.deployment.processes import Processes
from server_app.run_folder import RunFolder

_ANSWERED = re.compile(r"run=(\d+) round=(\d+) node=(\d+) answered")


class Field:
    """A federation under test: three sites with data of their own, workers included."""

    def __init__(self, federation: LocalFederation) -> None:
        self.federation = federation
        self.sites: dict[str, Site] = {site.name: site for site in demo_sites(federation.folder / "data")}

    def start(self) -> None:
        self.federation.start_superlink()
        self.federation.start_server_superexec()
        for site in self.sites.values():
            self.federation.register(site)
            self.federation.start_node(site)

    def config(self, name: str, rounds: int = 2, **changes: Any) -> RunConfig:
        flat: dict[str, Any] = {
            "num-server-rounds": rounds,
            "federation.num-clients": len(self.sites),
            "federation.round-timeout": 300.0,
            "privacy.epsilon": 0.0,
            "privacy.noise-multiplier": 1.0,
            "privacy.sampling-rate": 1.0,
            "statistics.sampling-rate": 1.0,
            "evaluation.every": rounds + 1,
            "output.dir": str(self.federation.folder / "results"),
            "output.name": name,
        }
        return RunConfig.parse(flat | changes)

    def folder(self, name: str) -> RunFolder:
        return RunFolder(self.federation.folder / "results" / name)

    def rounds_done(self, name: str) -> int:
        return max((row["round"] for row in self.folder(name).read_metrics()), default=0)

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
            text = self.federation.processes.log(f"{site}-superexec").read_text(errors="replace")
            found.update((node, int(number)) for of, number, node in _ANSWERED.findall(text) if int(of) == run)
        return found

    def check_books(self, name: str, *runs: int) -> Ledger:
        """The ledger covers every release that any node has computed, in the first and in resumed runs."""
        ledger = Ledger(self.folder(name).ledger)
        answers: Counter[tuple[str, int]] = Counter()
        for run in runs:
            answers += self.answers(run)
        assert answers, "nothing was released, so nothing was shown"
        for (node, number), times in answers.items():
            assert times <= ledger.rounds_charged(number), (node, number)
        return ledger


def wait_for(look: Callable[[], Any], seconds: float, complaint: str) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, complaint
        time.sleep(0.02)
    return found


def _line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    folder: Path = tmp_path_factory.mktemp("federation")
    with Processes(folder / "logs") as processes:
        started = Field(LocalFederation(folder, processes))
        started.start()
        yield started
