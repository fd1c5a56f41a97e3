"""What a run has spent: on disk before anything is sent, and never less than that."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message

from common.models import AdaptedModel
from common.privacy.gaussian import gaussian_epsilon
from common.privacy.ledger import Ledger
from common.privacy.mechanism import ReleaseTerms
from server_app.in_process import InProcessGrid
from server_app.privacy_account import PrivacyAccount
from server_app.run import plan_run
from tests.tiny import CLIENTS, Files, start, tiny_config, tiny_grid, tiny_strategy

NOISY: dict[str, Any] = {
    "privacy.epsilon": 0.0,
    "privacy.noise-multiplier": 2.0,
    "privacy.trust": "local",
    "num-server-rounds": 3,
}


class Auditor(InProcessGrid):
    """Before it passes messages on, it reads the ledger file."""

    ledger: Path
    seen: list[list[str]]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        lines = [json.loads(line) for line in self.ledger.read_text().splitlines()]
        self.seen.append([f"{line['charge']['label'][:7]} round {line['round']}" for line in lines])
        return super().send_and_receive(messages, timeout=timeout)


def test_every_charge_is_on_disk_before_its_messages_are_sent(
    files: Files, adapted: AdaptedModel, tmp_path: Path
) -> None:
    config = tiny_config(files, tmp_path, NOISY)
    grid = tiny_grid(config)
    grid.__class__ = Auditor
    grid.ledger, grid.seen = tmp_path / "ledger.jsonl", []  # type: ignore[attr-defined]
    start(tiny_strategy(config, adapted, tmp_path), grid)
    first = "stage 1 round 0"
    rounds = [f"stage 2 round {number}" for number in (1, 2, 3)]
    assert grid.seen == [[first], [first, *rounds[:1]], [first, *rounds[:2]], [first, *rounds]]  # type: ignore[attr-defined]


def account(files: Files, adapted: AdaptedModel, folder: Path, **changes: Any) -> PrivacyAccount:
    config = tiny_config(files, folder, {**NOISY, **changes})
    return PrivacyAccount(plan_run(config, adapted, CLIENTS), Ledger(folder / "ledger.jsonl"))


def test_the_running_epsilon_is_that_of_the_gaussian(files: Files, adapted: AdaptedModel, tmp_path: Path) -> None:
    """Local trust: stage 1 has z = 4, rounds z = 2, nothing is amplified, so mu^2 = 1/16 + 3/4 exactly."""
    books = account(files, adapted, tmp_path)
    assert books.epsilon_model() == 0.0
    books.charge_statistics()
    assert books.epsilon_model() == pytest.approx(gaussian_epsilon(1 / 4, 1e-3), rel=5e-3)
    before = 0.0
    for number in (1, 2, 3):
        books.charge_round(number)
        assert books.epsilon_model() > before
        before = books.epsilon_model()
    exact = gaussian_epsilon(math.sqrt(1 / 16 + 3 / 4), 1e-3)
    assert books.certify() == pytest.approx(exact, rel=1e-6)
    assert exact <= books.epsilon_model() <= 1.005 * exact
    assert books.rounds_charged == 3
    assert not books.affords_round()


def test_a_reopened_ledger_remembers_everything(files: Files, adapted: AdaptedModel, tmp_path: Path) -> None:
    books = account(files, adapted, tmp_path)
    books.charge_statistics()
    books.charge_round(1)
    again = account(files, adapted, tmp_path)
    assert again.epsilon_model() == books.epsilon_model() > 0
    assert again.rounds_charged == 1


def test_a_stage_in_the_clear_makes_every_figure_infinite(files: Files, adapted: AdaptedModel, tmp_path: Path) -> None:
    books = account(files, adapted, tmp_path, **{"statistics.private": False})
    assert books.epsilon_model() == books.certify() == math.inf
    clear = account(
        files, adapted, tmp_path / "clear", **{"privacy.epsilon": math.inf, "privacy.noise-multiplier": 0.0}
    )
    clear.charge_statistics()
    clear.charge_round(1)
    assert clear.epsilon_model() == math.inf
    assert clear.affords_round()
    assert not (tmp_path / "clear" / "ledger.jsonl").read_text()


def terms(noise: float, trust: Any = "local", shares: int = 4) -> ReleaseTerms:
    return ReleaseTerms(64, 1.0, noise, trust, shares, normalize=True)


def test_exposure_is_the_exact_gaussian_of_a_clients_own_messages(
    files: Files, adapted: AdaptedModel, tmp_path: Path
) -> None:
    """The most exposed client sent z = 2 twice and z = 1 once: mu^2 = 1/4 + 1/4 + 1."""
    books = account(files, adapted, tmp_path)
    assert books.epsilon_server() == 0.0
    for nodes, noise in (([1, 2], 2.0), ([2, 3], 2.0), ([2, 4], 1.0)):
        books.expose(nodes, terms(noise))
    assert books.epsilon_server() == pytest.approx(gaussian_epsilon(math.sqrt(1.5), 1e-3), rel=1e-4)
    assert sorted(books.exposure) == [1, 2, 3, 4]
    assert books.exposure[1] == pytest.approx(1 / 4, rel=1e-4)


def test_a_share_exposes_its_client_by_its_own_noise_only(files: Files, adapted: AdaptedModel, tmp_path: Path) -> None:
    books = account(files, adapted, tmp_path)
    books.expose([1], terms(2.0, "distributed", shares=16))
    assert books.exposure[1] == pytest.approx(4.0, rel=1e-4)


@pytest.mark.parametrize(
    ("trust", "noise", "raw"), [("central", 2.0, False), ("local", 0.0, False), ("local", 2.0, True)]
)
def test_a_message_in_the_clear_exposes_without_limit(
    files: Files, adapted: AdaptedModel, tmp_path: Path, trust: str, noise: float, raw: bool
) -> None:
    books = account(files, adapted, tmp_path)
    books.expose([1], terms(noise, trust), raw=raw)
    assert books.epsilon_server() == math.inf
