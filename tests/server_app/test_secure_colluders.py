"""What a server has that pools what it knows with clients that collude: as docs/privacy.md says, and no more."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client_app.seat import Asked, Seat
from common.config import RunConfig
from common.model.adapted import AdaptedModel
from common.secure.masks import Words, centered, pair_masks, seed_of, total_of
from common.wire.secure import bits_of
from server_app.privacy.account import assumptions
from server_app.privacy.solving import make_plan
from server_app.rounds.round import OpenRound
from tests.support.secure_runs import SecureRun, overheard
from tests.support.tiny import Files

Make = Callable[..., SecureRun]
COLLUDER = 1


@pytest.fixture
def make(files: Files, tmp_path: Path, adapted: AdaptedModel) -> Make:
    def made(**changes: Any) -> SecureRun:
        return SecureRun.of(files, tmp_path, adapted, **changes)

    return made


def seat_of(run: SecureRun, node: int) -> Seat:
    found = Seat.of(run.grid.context(node).state)
    assert found is not None
    return found


def without_masks_of(run: SecureRun, colluder: int, first: dict[int, Words], opened: OpenRound) -> np.ndarray:
    """The sum of first answers, with the masks taken off that their senders share with a client that colludes."""
    terms, own = opened.instruction.terms, seat_of(run, colluder)
    secrets, bits = dict(zip(own.peers, own.secrets, strict=True)), bits_of(terms)
    total = total_of(first.values(), terms.size, bits)
    for node in first:
        sender = seat_of(run, node)
        seeds = [(own.place, seed_of(secrets[sender.place], Asked.of(sender.asked).context))]
        total -= pair_masks(sender.place, seeds, terms.size, bits)
    return centered(total, bits)


@pytest.mark.parametrize(("missing", "readable"), [({COLLUDER}, True), ({COLLUDER, 2}, False)])
def test_the_first_sum_can_be_read_where_only_colluders_are_missing(
    make: Make, monkeypatch: pytest.MonkeyPatch, missing: set[int], readable: bool
) -> None:
    """Nobody lies, and nothing of the missing is there; each sum has noise of its own."""
    run = make().without(missing)
    opened = run.open(1)
    with overheard(monkeypatch) as hidden:
        replies = run.ask(opened.messages)
        first = opened.instruction.sort(replies).releases
        heard = run.hear(opened, replies)
    assert heard.summed is not None
    expected = sum(values for node, values in enumerate(hidden.answers, 1) if node not in missing)
    assert bool((without_masks_of(run, COLLUDER, first, opened) == expected).all()) == readable
    assert (heard.summed != expected).any(), "the second is under other noise"


def test_the_line_of_epsilon_says_that_no_colluder_is_missing() -> None:
    flat = {"privacy.trust": "secure", "privacy.sampling-rate": 1.0, "federation.num-clients": 20}
    said = {
        (dropouts, colluders): assumptions(
            make_plan(
                RunConfig.parse(flat | {"privacy.dropouts": dropouts, "privacy.colluders": colluders}), 20, 256, None
            )
        )
        for dropouts in (0, 2)
        for colluders in (0, 1)
    }
    assert "at most 2 miss a round and no colluder does, and what comes too late is dropped unread" in said[2, 1]
    assert not any("no colluder" in said[key] for key in ((0, 0), (0, 1), (2, 0)))
