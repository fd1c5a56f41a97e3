"""What a run has spent: on disk before anything is sent, and never less than that."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message
from scipy.stats import binom

from common.model.adapted import AdaptedModel
from server_app.privacy.account import PrivacyAccount, cross_check_sentence
from server_app.privacy.ledger import Ledger
from server_app.results.report import describe_privacy
from server_app.session import open_account
from server_app.strategies import recipe_of
from tests.support.exact import exact_epsilon
from tests.support.tiny import CLIENTS, Files, planned, start, tiny_config, tiny_grid, tiny_strategy
from workbench.simulation.in_process import InProcessGrid

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

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        lines = [json.loads(line) for line in self.ledger.read_text().splitlines()]
        self.seen.append([f"{line['charge']['label'][:7]} round {line['round']}" for line in lines])
        return super().push_messages(messages)


def test_every_charge_is_on_disk_before_its_messages_are_sent(
    files: Files, adapted: AdaptedModel, tmp_path: Path
) -> None:
    config = tiny_config(files, tmp_path, NOISY)
    grid = tiny_grid(config, Auditor)
    grid.ledger, grid.seen = tmp_path / "ledger.jsonl", []
    start(tiny_strategy(config, adapted, tmp_path), grid)
    first = "stage 1 round 0"
    rounds = [f"stage 2 round {number}" for number in (1, 2, 3)]
    assert grid.seen == [[first], [first, *rounds[:1]], [first, *rounds[:2]], [first, *rounds]]


def account(files: Files, adapted: AdaptedModel, folder: Path, **changes: Any) -> PrivacyAccount:
    config = tiny_config(files, folder, {**NOISY, **changes})
    return open_account(
        recipe_of(config, adapted.layout), planned(config, adapted, CLIENTS), Ledger(folder / "ledger.jsonl")
    )


def charge_all(books: PrivacyAccount, rounds: int = 3) -> PrivacyAccount:
    books.charge_stage_one()
    for number in range(1, rounds + 1):
        books.charge_round(number)
    return books


def test_the_running_epsilon_is_that_of_the_gaussian(files: Files, adapted: AdaptedModel, tmp_path: Path) -> None:
    """Local trust: stage 1 has z = 4, rounds z = 2, nothing is amplified, so mu^2 = 1/16 + 3/4 exactly."""
    books = account(files, adapted, tmp_path)
    assert books.epsilon_model() == 0.0
    books.charge_stage_one()
    assert books.epsilon_model() == pytest.approx(exact_epsilon(1 / 4, 1e-3), rel=5e-3)
    before = 0.0
    for number in (1, 2, 3):
        books.charge_round(number)
        assert books.epsilon_model() > before
        before = books.epsilon_model()
    exact = exact_epsilon(math.sqrt(1 / 16 + 3 / 4), 1e-3 - books.plan.slack)
    assert books.certify() == pytest.approx(exact, rel=1e-6)
    assert exact <= books.epsilon_model() <= 1.005 * exact
    assert books.rounds_charged == 3
    assert not books.affords_round()


def test_a_reopened_ledger_remembers_everything(files: Files, adapted: AdaptedModel, tmp_path: Path) -> None:
    books = account(files, adapted, tmp_path)
    books.charge_stage_one()
    books.charge_round(1)
    again = account(files, adapted, tmp_path)
    assert again.epsilon_model() == books.epsilon_model() > 0
    assert again.epsilon_server() == books.epsilon_server() > 0
    assert again.rounds_charged == again.participations == 1


CLEAR: dict[str, Any] = {"privacy.epsilon": math.inf, "privacy.noise-multiplier": 0.0}


@pytest.mark.parametrize("changes", [{"stage-one.private": False}, CLEAR])
def test_what_is_not_private_makes_every_figure_infinite(
    files: Files, adapted: AdaptedModel, tmp_path: Path, changes: dict[str, Any]
) -> None:
    books = account(files, adapted, tmp_path, **changes)
    for _ in range(2):  # before anything is charged as well as after
        assert [books.epsilon_model(), books.certify(), books.epsilon_server()] == [math.inf] * 3
        charge_all(books)
    assert books.plan.reason


def test_what_is_sent_in_the_clear_is_written_to_the_ledger_too(
    files: Files, adapted: AdaptedModel, tmp_path: Path
) -> None:
    books = charge_all(account(files, adapted, tmp_path, **CLEAR), rounds=5)
    charges = Ledger(tmp_path / "ledger.jsonl").charges
    assert [charge.noise_multiplier for charge in charges] == [0.0] * 6
    assert books.affords_round()  # no budget, no end


def test_against_the_server_every_message_of_a_client_composes_exactly(
    files: Files, adapted: AdaptedModel, tmp_path: Path
) -> None:
    """Everybody is asked in every round: mu^2 = 1/16 + T/4, at delta less a hundredth for the participation bound."""
    books = account(files, adapted, tmp_path)
    assert books.epsilon_server() == 0.0
    books.charge_stage_one()
    assert books.epsilon_server() == pytest.approx(exact_epsilon(1 / 4, 0.99e-3), rel=1e-3)
    for number in (1, 2, 3):
        books.charge_round(number)
        assert books.participations == number
        wanted = exact_epsilon(math.sqrt(1 / 16 + number / 4), 0.99e-3 - books.plan.slack)
        assert books.epsilon_server() == pytest.approx(wanted, rel=1e-6)


def test_a_share_hides_its_client_by_its_own_noise_only(files: Files, adapted: AdaptedModel, tmp_path: Path) -> None:
    """z = 4 over six shares, two rounds, no stage 1: mu^2 = 2 * 6/16."""
    changes = {"privacy.trust": "distributed", "privacy.noise-multiplier": 4.0, "strategy.name": "lora"}
    books = charge_all(account(files, adapted, tmp_path, **changes), rounds=2)
    assert books.plan.shares == CLIENTS
    wanted = exact_epsilon(math.sqrt(2 * CLIENTS / 16), 0.99e-3 - books.plan.slack)
    assert books.epsilon_server() == pytest.approx(wanted, rel=1e-5)


def test_in_central_a_message_is_in_the_clear_before_the_server(
    files: Files, adapted: AdaptedModel, tmp_path: Path
) -> None:
    books = charge_all(account(files, adapted, tmp_path, **{"privacy.trust": "central"}))
    assert books.epsilon_server() == math.inf
    assert books.epsilon_model() < 20


def test_participations_are_a_bound_from_public_numbers(files: Files, adapted: AdaptedModel, tmp_path: Path) -> None:
    """T rounds at rate p: the quantile of Bin(T, p) that none of M clients exceeds but with delta/100."""
    changes = {"privacy.sampling-rate": 0.2, "num-server-rounds": 40}
    books = account(files, adapted, tmp_path, **changes)
    assert books.participations == 0
    assert books.epsilon_server() == 0.0
    charge_all(books, 40)
    asked = books.participations
    assert CLIENTS * binom.sf(asked, 40, 0.2) <= 1e-5 < CLIENTS * binom.sf(asked - 1, 40, 0.2)
    wanted = exact_epsilon(math.sqrt(1 / 16 + asked / 4), 0.99e-3 - books.plan.slack)
    assert books.epsilon_server() == pytest.approx(wanted, rel=1e-6)


def test_a_round_that_is_asked_again_is_a_draw_of_its_own(files: Files, adapted: AdaptedModel, tmp_path: Path) -> None:
    """It is charged as one. Two looks at one draw would cost more than two rounds of independent draws."""
    books = account(files, adapted, tmp_path, **{"privacy.sampling-rate": 0.2, "num-server-rounds": 40})
    draws = []
    for number in (1, 2, 2, 2, 3):
        books.charge_round(number)
        draws.append(books.draw_number(number))
    assert draws == [1, 2, 3, 4, 5]
    whole = account(files, adapted, tmp_path / "whole", **{"privacy.sampling-rate": 0.2, "num-server-rounds": 40})
    assert books.participations == charge_all(whole, 5).participations


def test_without_noise_a_round_that_is_asked_again_is_the_same(
    files: Files, adapted: AdaptedModel, tmp_path: Path
) -> None:
    books = account(files, adapted, tmp_path, **CLEAR)
    books.charge_round(1)
    books.charge_round(1)
    assert books.draw_number(1) == 1


@pytest.mark.parametrize(("noise", "claimed"), [(0.27, True), (0.24, False)])
def test_an_epsilon_beyond_twenty_is_reported_as_infinite(
    files: Files, adapted: AdaptedModel, tmp_path: Path, noise: float, claimed: bool
) -> None:
    """One round in local trust: the exact figure lies on either side of the most that is claimed."""
    exact = exact_epsilon(1 / noise, 1e-3)
    assert 17 < exact < 23
    assert (exact < 20) == claimed
    changes = {"strategy.name": "lora", "num-server-rounds": 1, "privacy.noise-multiplier": noise}
    books = account(files, adapted, tmp_path, **changes)
    books.charge_round(1)
    for figure in (books.epsilon_model(), books.certify(), books.epsilon_server()):
        assert figure == (pytest.approx(exact, rel=6e-3) if claimed else math.inf)


def test_an_epsilon_beyond_twenty_says_that_it_is_not_claimed(
    files: Files, adapted: AdaptedModel, tmp_path: Path
) -> None:
    """The plan itself is private, and says nothing; the report of the account does, and has no bracket for it."""
    changes = {**NOISY, "strategy.name": "lora", "privacy.noise-multiplier": 0.24}
    books = account(files, adapted, tmp_path, **changes)
    books.charge_round(1)
    privacy = describe_privacy(books)
    assert books.plan.reason == ""
    assert privacy["released_model"]["epsilon"] == math.inf
    assert privacy["not_private_because"] == "epsilon is above 20"
    assert privacy["released_model"]["cross_check"] == {"unavailable": "epsilon is above 20"}


@pytest.mark.parametrize(
    ("answer", "check", "sentence"),
    [
        ((1.0, 3.0), {"lower": 1.0, "upper": 3.0, "agrees": True}, "inside the bracket [1.000, 3.000]"),
        ((1.0, 1.5), {"lower": 1.0, "upper": 1.5, "agrees": False}, "DISAGREES with the bracket [1.000, 1.500]"),
        (
            (1.9796, 2.0192),
            {"lower": 1.9796, "upper": 2.0192, "agrees": True},
            "the bracket [1.979, 2.020]",
        ),  # outwards
        ((2.5, 3.0), {"lower": 2.5, "upper": 3.0, "agrees": False}, "DISAGREES"),
        ("not cross-checked: too slow", {"unavailable": "too slow"}, "not cross-checked: too slow"),
    ],
)
def test_a_cross_check_never_hides_what_it_found(
    files: Files,
    adapted: AdaptedModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: Any,
    check: dict[str, Any],
    sentence: str,
) -> None:
    books, asked = charge_all(account(files, adapted, tmp_path)), []

    def prv(*arguments: Any, **options: Any) -> Any:
        asked.append((*arguments, options))
        return answer

    monkeypatch.setattr("server_app.privacy.account.cross_check", prv)
    assert books.cross_check(2.0) == check
    assert sentence in cross_check_sentence(check)
    charges = Ledger(tmp_path / "ledger.jsonl").charges
    assert asked == [(charges, books.plan.delta - books.plan.slack, {"timeout": 30.0})]


def test_what_another_process_has_charged_counts_in_every_figure(
    files: Files, adapted: AdaptedModel, tmp_path: Path
) -> None:
    """Two went on with one run: 3.61 was printed where the ledger that both wrote proved 4.45."""
    both = [account(files, adapted, tmp_path), account(files, adapted, tmp_path)]
    for number in (1, 2):
        for each in both:
            each.charge_round(number)
    last = both[1]
    again = account(files, adapted, tmp_path)
    assert last.rounds_charged == again.rounds_charged == 4
    for figure in ("certify", "epsilon_model", "epsilon_server"):
        assert getattr(last, figure)() == getattr(again, figure)(), figure


def test_a_charge_is_shown_before_it_is_spent(files: Files, adapted: AdaptedModel, tmp_path: Path) -> None:
    """A server that was killed between ledger and metrics.prom showed 3.14 for ever where 3.95 was spent."""
    books, ledger, shown = account(files, adapted, tmp_path), tmp_path / "ledger.jsonl", []

    def figures() -> tuple[float, ...]:
        return books.epsilon_model(), books.epsilon_server(), books.rounds_left, books.rounds_charged

    def show() -> None:
        shown.append((len(ledger.read_text().splitlines()), figures()))

    books.on_charge = show
    for number in range(3):
        books.charge_round(number + 1)
        assert shown[-1] == (number, figures()), "not yet in the ledger, and in every figure"


def test_a_charge_that_could_not_be_written_stays_counted(
    files: Files, adapted: AdaptedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    books, other = account(files, adapted, tmp_path), account(files, adapted, tmp_path / "other")
    other.charge_round(1)

    def full(*_: Any, **__: Any) -> None:
        raise OSError

    monkeypatch.setattr(Ledger, "charge", full)
    with pytest.raises(OSError):  # noqa: PT011 - the one above
        books.charge_round(1)
    assert books.epsilon_model() == other.epsilon_model() > 0
    assert books.epsilon_server() == other.epsilon_server() > 0
