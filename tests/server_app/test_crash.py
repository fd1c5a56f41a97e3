"""A server that is killed at any moment has never spent less on paper than in fact, and can be resumed."""

import json
import multiprocessing
import signal
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from common.config import RunConfig
from common.privacy.accounting import Charge, epsilon
from server_app.privacy.ledger import Ledger
from server_app.results.folder import RunFolder
from tests.support import crash_child
from tests.support.tiny import CLIENTS, Files, tiny_config

NOISY: dict[str, Any] = {
    "privacy.epsilon": 0.0,
    "privacy.noise-multiplier": 2.0,
    "privacy.trust": "local",
    "server.divergence-factor": 1e9,  # the noise may raise the loss to four times the base model's
}
ROUNDS = 3
DELTA = 1e-5
MOMENTS = list(crash_child.MOMENTS)
LAST_OF_STAGE_ONE = MOMENTS.index("after the replies of stage 1")
# how often each round is in the ledger when the process dies, and how often after the run has been resumed to its end
CHARGED: dict[str, tuple[list[int], list[int]]] = {
    "before the charge of stage 1": ([0, 0, 0, 0], []),
    "after the charge of stage 1": ([1, 0, 0, 0], []),
    "after the replies of stage 1": ([1, 0, 0, 0], []),
    "within the line of a round's charge": ([1, 1, 0, 0], [1, 1, 1, 1]),
    "after a round's charge": ([1, 1, 1, 0], [1, 1, 2, 0]),
    "after half of a round's replies": ([1, 1, 1, 0], [1, 1, 2, 0]),
    "after a round's replies": ([1, 1, 1, 0], [1, 1, 2, 0]),
    "within a checkpoint": ([1, 1, 1, 0], [1, 1, 2, 0]),
    "before a checkpoint counts": ([1, 1, 1, 0], [1, 1, 2, 0]),
    "after a checkpoint": ([1, 1, 1, 0], [1, 1, 1, 1]),
}
"""The budget is of three rounds: where one is paid for twice, the last is not run."""
ANSWERED = {
    "within the line of a round's charge": 0,
    "after a round's charge": 0,
    "after half of a round's replies": CLIENTS // 2,
}
"""How many clients have released in the round to die in, where not all have."""


@dataclass(frozen=True)
class Crash:
    """One run, its folder and the independent log of what its clients let out."""

    config: RunConfig
    folder: RunFolder
    log: Path

    def process(self, moment: str, **changes: Any) -> int:
        """Run (up to a moment) in a process of its own and return its exit code."""
        flat = self.config.flat() | changes
        # a fork server: every process is a real one, but the slow imports are made only once
        child = _FORK.Process(target=crash_child.main, args=(flat, self.log, moment))
        child.start()
        child.join(300)
        assert child.exitcode is not None, "the process hangs"
        return child.exitcode

    def released(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def check_books(self) -> list[Charge]:
        """The ledger replays, and covers what every client has let out; returns its charges."""
        ledger = Ledger(self.folder.ledger)
        spent = epsilon(ledger.charges, DELTA)
        for node in {line["node"] for line in self.released()}:
            own = [line for line in self.released() if line["node"] == node]
            for number, times in Counter(line["round"] for line in own).items():
                assert times <= ledger.rounds_charged(number)
            assert epsilon([Charge(line["noise"]) for line in own], DELTA) <= spent * (1 + 1e-9)
        return list(ledger.charges)

    def rounds_charged(self) -> list[int]:
        ledger = Ledger(self.folder.ledger)
        return [ledger.rounds_charged(number) for number in range(ROUNDS + 1)]


_FORK = multiprocessing.get_context("forkserver")
_FORK.set_forkserver_preload([crash_child.__name__])


def killed(files: Files, folder: Path, moment: str) -> Crash:
    crash = Crash(tiny_config(files, folder, NOISY), RunFolder(folder / "run"), folder / "releases.jsonl")
    assert crash.process(moment) == -signal.SIGKILL
    return crash


@pytest.mark.parametrize("moment", MOMENTS[LAST_OF_STAGE_ONE + 1 :])
def test_a_run_killed_in_stage_two_has_paid_for_every_release_and_is_resumed_to_its_end(
    files: Files, tmp_path: Path, moment: str
) -> None:
    crash = killed(files, tmp_path, moment)
    before, (when_killed, at_the_end) = crash.check_books(), CHARGED[moment]
    assert crash.rounds_charged() == when_killed
    answered = len({line["node"] for line in crash.released() if line["round"] == crash_child.ROUND})
    assert answered == ANSWERED.get(moment, CLIENTS)

    assert crash.process("", resume=str(crash.folder.path)) == 0
    after = crash.check_books()
    assert after[: len(before)] == before, "nothing that was spent is taken back"
    assert crash.rounds_charged() == at_the_end
    report = json.loads((crash.folder.path / "report.json").read_text())
    lost = 0 in at_the_end
    assert report["outcome"]["stopped_because"] == ("privacy budget spent" if lost else "all rounds done")
    assert [row["round"] for row in crash.folder.read_metrics()] == list(range(ROUNDS if lost else ROUNDS + 1))


@pytest.mark.parametrize("moment", MOMENTS[: LAST_OF_STAGE_ONE + 1])
def test_a_run_killed_in_stage_one_has_paid_for_every_release_and_is_not_resumed(
    files: Files, tmp_path: Path, moment: str
) -> None:
    """There is no checkpoint yet. Its ledger stays as it is: what it holds is spent."""
    crash = killed(files, tmp_path, moment)
    before = crash.check_books()
    assert crash.rounds_charged() == CHARGED[moment][0]
    assert bool(crash.released()) == (MOMENTS.index(moment) == LAST_OF_STAGE_ONE)
    assert crash.process("", resume=str(crash.folder.path)) == 1
    assert crash.check_books() == before
