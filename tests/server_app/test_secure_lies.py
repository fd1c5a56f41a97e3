"""Secure aggregation against clients that say anything at all, and through a small window: a right sum, or none."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.model.adapted import AdaptedModel
from common.wire.records import TRAIN
from common.wire.secure import KEYS, PEERS, REPAIR, SECURE
from server_app.rounds import secure
from server_app.rounds.cohort import FederationError, exchange
from tests.support.secure_runs import SecureRun, overheard
from tests.support.tiny import Files

LIAR = 3


@pytest.fixture
def make(files: Files, tmp_path: Path, adapted: AdaptedModel) -> Callable[..., SecureRun]:
    def made(**changes: Any) -> SecureRun:
        return SecureRun.of(files, tmp_path, adapted, **changes)

    return made


def lie(run: SecureRun, kind: str, said: Callable[[RecordDict], RecordDict]) -> None:
    """Node 3 answers one kind of message with something else."""
    honest = run.grid.answer

    def answer(message: Message) -> Message | None:
        reply = honest(message)
        of_liar = message.metadata.dst_node_id == LIAR and message.metadata.message_type == kind
        return Message(said(reply.content), reply_to=message) if of_liar and reply and reply.has_content() else reply

    run.grid.answer = answer  # type: ignore[method-assign]


VALUES = st.one_of(
    st.integers(-(2**63), 2**63 - 1), st.floats(), st.binary(max_size=90), st.text(max_size=5), st.booleans(),
    st.lists(st.integers(0, 9), max_size=3),
)  # fmt: skip
NAMES = st.sampled_from(["exchange", "values", "key", "site", "known", "directory", "head", "extra"])


@given(
    fields=st.dictionaries(NAMES, VALUES, max_size=4),
    kind=st.sampled_from([KEYS, PEERS, TRAIN, REPAIR]),
    merge=st.booleans(),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_one_client_says_the_sum_is_that_of_the_others_or_none(
    make: Callable[..., SecureRun], monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], kind: str, merge: bool
) -> None:
    run = make()
    run.strategy.secure.members, run.strategy.secure._tried = [], set()  # type: ignore[union-attr]
    run.grid.missing = {TRAIN: frozenset({1})} if kind == REPAIR else {}

    def said(reply: RecordDict) -> RecordDict:
        record = dict(reply[SECURE]) if merge else {}  # type: ignore[call-overload]
        return RecordDict({SECURE: ConfigRecord({**record, **fields})})

    lie(run, kind, said)
    try:
        run.strategy._wait(run.grid, 1)
    except FederationError:
        return
    with overheard(monkeypatch) as hidden:
        heard = run.hear(run.open(1))
    assert (heard.summed is None) == bool(heard.shortage)
    if heard.summed is None or kind == REPAIR:
        return
    answers = hidden.repairs or hidden.answers
    np.testing.assert_array_equal(heard.summed, sum(answers))


def test_a_key_that_is_somebody_else_s_makes_neither_a_member(make: Callable[..., SecureRun]) -> None:
    run = make()
    run.strategy.secure.members, run.strategy.secure._tried = [], set()  # type: ignore[union-attr]
    keys: dict[int, RecordDict] = {}
    honest = run.grid.answer

    def answer(message: Message) -> Message | None:
        reply = honest(message)
        node = message.metadata.dst_node_id
        if message.metadata.message_type == KEYS and reply:
            keys[node] = reply.content
            return Message(keys[1], reply_to=message) if node == LIAR else reply
        return reply

    run.grid.answer = answer  # type: ignore[method-assign]
    run.strategy._wait(run.grid, 1)
    assert run.strategy.secure is not None
    assert run.strategy.secure.members == [2, 4, 5, 6]


@pytest.mark.parametrize("key", [bytes(32), b"\1" + bytes(31)])
def test_a_key_that_no_secret_can_be_agreed_on_with_costs_its_sender_alone(
    make: Callable[..., SecureRun], monkeypatch: pytest.MonkeyPatch, key: bytes
) -> None:
    """All others failed over it, were named for it, and the run ended before round 1."""
    events: list[dict[str, Any]] = []
    monkeypatch.setattr(secure, "log_event", lambda name, **fields: events.append({"event": name, **fields}))
    run = make()
    run.strategy.secure.members, run.strategy.secure._tried = [], set()  # type: ignore[union-attr]
    lie(run, KEYS, lambda content: RecordDict({SECURE: ConfigRecord({**content[SECURE], "key": key})}))  # type: ignore[dict-item]
    run.strategy._wait(run.grid, 1)
    assert run.strategy.secure is not None
    assert run.strategy.secure.members == [1, 2, 4, 5, 6]
    assert [event["node"] for event in events if event["event"] == "node_failed"] == [LIAR]


@pytest.mark.parametrize("window", [1, 2, 5])
def test_a_small_window_changes_no_sum(
    make: Callable[..., SecureRun], monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    run = make(**{"federation.max-in-flight": window})
    run.seconds = 3600.0
    opened = run.open(1)
    with overheard(monkeypatch) as hidden:
        heard = run.hear(opened)
    np.testing.assert_array_equal(heard.summed, sum(hidden.answers))


def test_people_are_told_what_is_waited_for_by_its_name(
    make: Callable[..., SecureRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("server_app.rounds.cohort.phase", lambda step: said.append(step) or nullcontext())
    run = make().without({1})
    run.hear(run.open(4))
    assert said == ["key set-up", "key set-up", "round 4", "round 4, once more without the missing"]
    exchange(run.grid, [], 1.0, 0)
