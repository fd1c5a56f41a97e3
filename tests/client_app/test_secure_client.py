"""A client under secure aggregation, asked by a server that may ask anything."""

import json
import math
import struct
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, RecordDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from client_app import seat
from client_app.node_config import PolicyRefusal
from client_app.secure import lands_heads
from client_app.site import CodeMismatch, Site
from client_app.site_keys import SiteKeys
from common.model.adapted import AdaptedModel
from common.privacy.mechanism import ReleaseTerms
from common.secure.directory import to_bitmap
from common.secure.keys import NO_SITE
from common.wire.assignment import Task
from common.wire.digest import app_digest
from common.wire.records import MASK, TASK, TRAIN, WireError, serialized_bytes
from common.wire.secure import (
    KEYS,
    PEERS,
    REPAIR,
    SECURE,
    SecureTask,
    bits_of,
    context_of,
    pack_repair,
    pack_request,
    unpack_masked,
)
from server_app.rounds.secure import set_up_bytes
from tests.support.false_alarms import statistical
from tests.support.secure_client import ALL, MEMBERS, TERMS, Client, told


@pytest.fixture
def client(adapted: AdaptedModel) -> Client:
    return Client(adapted, {"partition-id": 0, "num-partitions": 4}).seated()


# ------------------------------------------------------------------------------------------------ never twice


def test_an_exchange_is_answered_once_and_an_older_one_never(client: Client) -> None:
    client.answers(told(4))
    for number in (4, 3, 0):
        with pytest.raises(WireError, match="is answered already"):
            client.answers(told(number))
    client.answers(told(5))


def test_a_state_that_is_brought_back_is_no_second_chance(client: Client) -> None:
    before = ConfigRecord(dict(client.context.state[seat.RECORD]))  # type: ignore[arg-type]
    client.answers(told(1))
    client.context.state[seat.RECORD] = before
    with pytest.raises(WireError, match="is answered already"):
        client.answers(told(1))


def test_new_keys_do_not_bring_an_exchange_back(client: Client) -> None:
    client.answers(told(3))
    client.seated()
    with pytest.raises(WireError, match="is answered already"):
        client.answers(told(3))


def test_masks_differ_between_exchanges_rounds_runs_and_keys(
    client: Client, adapted: AdaptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[bytes] = []
    derive = seat.seed_of
    monkeypatch.setattr(seat, "seed_of", lambda secret, context: seeds.append(derive(secret, context)) or seeds[-1])
    for number in range(3):
        client.answers(told(number))
    client.repairs(2, ALL - {0})
    client.seated().answers(told(9))
    other = Client(adapted, {"partition-id": 0, "num-partitions": 4})
    other.context.state, other.context.run_id = client.context.state, 8
    other.seated().answers(told(10))
    assert len(seeds) == 3 * 4 + 3 + 2 * 4  # a repair among three others
    assert len(set(seeds)) == len(seeds)


@pytest.mark.parametrize("change", [{"round": 2}, {"size": 33}, {"clip_norm": 2.0}, {"noise_multiplier": 3.0},
                                    {"shares": 6}, {"normalize": False}, {"exchange": 2}, {"rate": 0.5}, {"least": 4},
                                    {"present": b"\x0f"}])  # fmt: skip
def test_masks_hang_on_each_thing_that_members_must_be_told_alike(change: dict[str, Any]) -> None:
    """Or a server could tell each another one, and be left with the sum of some of those that it asked."""
    task, secure = Task(1, TERMS, app_digest()), told(1)
    terms = replace(TERMS, **{key: value for key, value in change.items() if hasattr(TERMS, key)})
    others = {key: value for key, value in change.items() if hasattr(secure, key)}
    other = replace(task, terms=terms, round=change.get("round", 1)), replace(secure, **others)
    assert other != (task, secure)
    assert context_of(*other) != context_of(task, secure)


def test_masks_of_a_repair_hang_on_all_who_survive(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[bytes] = []
    derive = seat.seed_of
    monkeypatch.setattr(seat, "seed_of", lambda secret, context: seeds.append(derive(secret, context)) or seeds[-1])
    found = seat.Seat.of(client.context.state)
    assert found is not None
    entered = found.entered(Task(1, TERMS, app_digest()), told(1))
    entered.masks()
    for there in (ALL - {0}, ALL - {1}, ALL - {0, 1}):
        entered.repair(1, to_bitmap(there, MEMBERS))
    assert len(seeds) == 4 + 3 + 3 + 2
    assert len(set(seeds)) == len(seeds)


# --------------------------------------------------------------------------------------- malicious instructions


@pytest.mark.parametrize(
    ("secure", "terms", "said"),
    [
        (told(1, ALL - {2}), TERMS, "not among those that are present"),
        (told(1, {0, 2}), TERMS, "2 of 5 members are asked, 3 are enough"),
        (told(1, ALL, least=6), TERMS, "6 are enough"),
        (replace(told(1), present=b"\x1f\x00"), TERMS, "does not fit 5 members"),
        (replace(told(1), present=b"\xff"), TERMS, "does not fit 5 members"),
        (told(1), replace(TERMS, shares=4), "noise is cut into 4 shares"),
        (told(1), replace(TERMS, trust="local"), "has a mask"),
        (None, TERMS, "has no mask"),
        (told(1), replace(TERMS, noise_multiplier=0.0), "noisy integers"),
    ],
)
def test_a_bad_instruction_is_refused_and_takes_nothing(
    client: Client, secure: SecureTask | None, terms: ReleaseTerms, said: str
) -> None:
    before = json.dumps(dict(client.context.state[seat.RECORD]), default=bytes.hex)  # type: ignore[call-overload]
    with pytest.raises(WireError, match=said):
        client.answers(secure, terms)
    assert json.dumps(dict(client.context.state[seat.RECORD]), default=bytes.hex) == before  # type: ignore[call-overload]


def test_a_masked_answer_is_never_asked_for_in_the_clear(client: Client) -> None:
    with pytest.raises(WireError, match="in the clear"):
        client.answers(told(1), raw=True)


def test_a_member_that_is_told_of_another_modulus_shares_no_mask_and_its_answer_is_not_read(client: Client) -> None:
    """The modulus follows from the terms: a server that tells members of different terms gets no sum of them."""
    found = seat.Seat.of(client.context.state)
    assert found is not None
    task, exchange = Task(1, TERMS, app_digest()), told(1)
    other = replace(task, terms=replace(TERMS, noise_multiplier=200.0))
    assert bits_of(other.terms) > bits_of(TERMS)
    masks = [found.entered(each, exchange).masks().astype(np.int64) for each in (task, other)]
    assert np.count_nonzero((masks[0] - masks[1]) % 2 ** bits_of(TERMS)) > TERMS.size // 2  # no prefix of one another
    with pytest.raises(WireError, match="masked vector"):
        unpack_masked(client.answers(exchange, other.terms), 1, TERMS.size, bits_of(TERMS))


@pytest.mark.parametrize(
    ("number", "there"), [(1, ALL), (1, ALL - {2}), (1, {1, 2}), (0, ALL - {0}), (2, ALL - {0}), (1, {0, 1, 2, 3, 5})]
)
def test_a_bad_repair_is_refused(client: Client, number: int, there: set[int]) -> None:
    client.answers(told(1, ALL))
    with pytest.raises(WireError):
        client.asked(pack_repair(number, sum(1 << n for n in there).to_bytes(1, "little")), REPAIR)


def test_a_repair_is_given_once(client: Client) -> None:
    with pytest.raises(WireError, match="was not its last"):
        client.repairs(1, ALL - {0})
    client.answers(told(1))
    client.repairs(1, ALL - {0})
    for there in (ALL - {0}, ALL - {1}):
        with pytest.raises(WireError, match="is repaired"):
            client.repairs(1, there)


def test_a_repair_is_of_those_who_were_present(client: Client) -> None:
    client.answers(told(1, ALL - {0}))
    with pytest.raises(WireError, match="must be of fewer than were asked"):
        client.repairs(1, {0, 1, 2})


@pytest.mark.parametrize("key", [bytes(32), (1).to_bytes(32, "little")])
def test_a_key_that_fixes_a_secret_is_refused(client: Client, key: bytes) -> None:
    own = client.key()
    with pytest.raises(WireError, match="no point"):
        client.know([own, (key, NO_SITE)])


def test_a_directory_is_known_once_for_each_key_and_holds_it(client: Client) -> None:
    with pytest.raises(WireError, match="was not asked for a key"):
        client.know(client.others)
    client.key()
    with pytest.raises(WireError, match="own key is not in"):
        client.know(client.others)


def test_no_private_run_key_stays_once_secrets_are_made(client: Client) -> None:
    assert client.context.state[seat.RECORD]["private"] == b""


def test_no_private_key_is_in_what_a_seat_or_a_site_s_keys_look_like_in_a_log(client: Client) -> None:
    public, _ = client.key()
    found = seat.Seat.of(client.context.state)
    assert found is not None
    assert (found.public, len(found.private)) == (public, 32)
    assert repr(found.private)[2:-1] not in repr(found)
    assert "x" * 32 not in repr(SiteKeys(b"x" * 32, {}))


def test_a_client_without_keys_says_so(adapted: AdaptedModel) -> None:
    client = Client(adapted, {"partition-id": 0, "num-partitions": 4})
    for ask in (lambda: client.answers(told(1)), lambda: client.repairs(1, ALL)):
        with pytest.raises(WireError, match="has no pair secrets"):
            ask()


@given(
    fields=st.dictionaries(
        st.sampled_from(["exchange", "present", "code-digest", "directory", "extra"]),
        st.one_of(st.integers(-(2**63), 2**63 - 1), st.floats(), st.binary(max_size=90), st.text(max_size=5)),
    ),
    kind=st.sampled_from([KEYS, PEERS, REPAIR]),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_asked_is_a_refusal_or_an_answer(client: Client, fields: dict[str, Any], kind: str) -> None:
    with suppress(WireError, PolicyRefusal, CodeMismatch):
        client.asked(RecordDict({SECURE: ConfigRecord(fields)}), kind)


@given(
    mask=st.one_of(
        st.integers(-(2**63), 2**63 - 1),
        st.binary(max_size=30),
        st.tuples(st.integers(-(2**63), 2**63 - 1), st.floats(), st.integers(0, 2**32 - 1), st.binary(max_size=3)).map(
            lambda told: struct.pack("<qdI", *told[:3]) + told[3]
        ),
        st.tuples(
            st.integers(0, 2**62 - 1), st.floats(0, 1), st.integers(0, 6), st.sampled_from([b"\x1f", b"\x07"])
        ).map(lambda told: struct.pack("<qdI", *told[:3]) + told[3]),
    )
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_an_answer_is_to_be_masked_under_is_a_refusal_or_an_answer(client: Client, mask: int | bytes) -> None:
    held = dict(client.instructed(None).config_records[TASK])
    with suppress(WireError, PolicyRefusal):
        client.asked(RecordDict({TASK: ConfigRecord({**held, MASK: mask})}), TRAIN)


@statistical(1e-6, "system")
def test_a_coin_lands_heads_as_often_as_was_asked(client: Client) -> None:
    """4,000 coins at p = .2: a binomial count outside of its central 1 - 10⁻⁶ would be an alarm."""
    site = Site.of(client.context)
    found = sum(lands_heads(site, 1, 0.2) for _ in range(4000))
    assert binom.ppf(5e-7, 4000, 0.2) <= found <= binom.isf(5e-7, 4000, 0.2)
    assert all(lands_heads(site, 1, 1.0) for _ in range(100))


def test_an_answer_takes_the_bits_of_the_sum_and_no_more(client: Client) -> None:
    bits = bits_of(TERMS)
    reply = client.answers(told(1))
    assert unpack_masked(reply, 1, 32, bits)[0].shape == (32,)
    assert serialized_bytes(reply) <= math.ceil(32 * bits / 8) + 60


def test_messages_of_secure_aggregation_are_forty_bytes_a_pair(client: Client) -> None:
    up, down = set_up_bytes(100)
    assert up + down <= 40 * 99
    assert serialized_bytes(client.asked(pack_request(app_digest()), KEYS)) < up


def test_every_answer_is_masked_with_all_that_are_present_whoever_the_server_chooses(client: Client) -> None:
    """In a sparse graph a server could ask for answers in which nobody that a client is paired with is present."""
    found = seat.Seat.of(client.context.state)
    assert found is not None
    assert found.peers == [0, 1, 3, 4]
    for number, other in enumerate(found.peers):
        entered = found.entered(Task(1, TERMS, app_digest()), told(number, {2, other}, least=2))
        assert entered.masks().any()
        found = entered
