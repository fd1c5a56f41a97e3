"""A site with data and keys of its own under secure aggregation: whom it trusts, what it counts, what time tells."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import RecordDict

from client_app import answer as answering
from client_app import seat
from client_app.exchange_file import claim
from client_app.node_config import PolicyRefusal
from client_app.policy import SitePolicy
from client_app.rows import rows_allowed
from common.model.adapted import AdaptedModel
from common.secure.directory import Directory
from common.secure.keys import NO_SITE, agree, new_private_key, pair_secret, public_key, site_name
from common.wire.assignment import Task
from common.wire.digest import app_digest
from common.wire.records import WireError, serialized_bytes
from tests.support.secure_client import MEMBERS, TERMS, Client, told
from tests.support.tiny import ledger_in


def test_a_site_with_its_own_data_needs_keys_of_its_own(adapted: AdaptedModel, tmp_path: Path) -> None:
    node = {"data-path": str(tmp_path / "own.jsonl"), "max-epsilon": 0.0, "ledger-path": ledger_in(tmp_path)}
    client = Client(adapted, node)
    with pytest.raises(PolicyRefusal, match="needs site-key and peers"):
        client.key()


def test_a_member_that_is_not_pinned_is_refused(own: Callable[..., Client]) -> None:
    client = own(seated=False)
    mine = client.key()
    for stranger in (NO_SITE, site_name(public_key(new_private_key()))):
        with pytest.raises(PolicyRefusal, match="1 of 5 members are none of its peers"):
            client.know([mine, (client.others[0][0], stranger), *client.others[1:]])
    with pytest.raises(PolicyRefusal, match="a site twice"):
        client.know([mine, *client.others[:3], (client.others[3][0], client.others[2][1])])
    with pytest.raises(PolicyRefusal, match="another name for this one"):
        client.know([(mine[0], NO_SITE), *client.others])


def test_a_server_that_puts_its_own_run_keys_in_learns_no_pair_secret(own: Callable[..., Client]) -> None:
    """It knows every run key's agreement then, and still none of the secrets, which hang on pinned keys too."""
    client = own(seated=False)
    mine, faked = client.key(), [new_private_key() for _ in range(MEMBERS - 1)]
    members = [mine, *((public_key(key), name) for key, (_, name) in zip(faked, client.others, strict=True))]
    client.know(members)
    digest = Directory(tuple(members)).digest
    found = seat.Seat.of(client.context.state)
    assert found is not None
    assert not set(found.secrets) & {
        pair_secret(agree(key, mine[0]), digest, 7, (0, n)) for n, key in enumerate(faked, 1)
    }


def test_a_peer_whose_keys_are_another_s_in_other_bytes_takes_no_mask_off(
    own: Callable[..., Client], tmp_path: Path
) -> None:
    """X25519 ignores the highest bit. With one agreement below this site and the same above it, no mask was left."""
    client, runs = own(seated=False), [new_private_key() for _ in range(2)]
    honest = [public_key(new_private_key()) for _ in runs]
    pinned, keys = [[*each, *map(other_bytes, each)] for each in (honest, [public_key(key) for key in runs])]
    (tmp_path / "peers").write_text("".join(f"{key.hex()}\n" for key in pinned), encoding="utf-8")
    client.others = [(key, site_name(site)) for key, site in zip(keys, pinned, strict=True)]
    found = seat.Seat.of(client.seated().context.state)
    assert found is not None
    assert len(set(found.secrets)) == MEMBERS - 1
    masks = found.entered(Task(1, TERMS, app_digest()), told(1)).masks()
    assert np.count_nonzero(masks) > TERMS.size // 2


def other_bytes(key: bytes) -> bytes:
    """The same point."""
    return key[:-1] + bytes([key[-1] ^ 0x80])


def test_a_site_may_require_secure_aggregation(own: Callable[..., Client]) -> None:
    client = own(require_secure_aggregation=True)
    client.answers(told(1))
    with pytest.raises(PolicyRefusal, match="require-secure-aggregation"):
        client.answers(None, replace(TERMS, trust="local"))


def test_a_site_says_how_many_others_must_be_in_a_sum(own: Callable[..., Client]) -> None:
    client = own(min_peers=3)
    client.answers(told(1, least=4))
    with pytest.raises(PolicyRefusal, match=r"of 2 others, below its min-peers = 3"):
        client.answers(told(2, least=3))


def test_the_ledger_counts_the_noise_that_the_site_counts_on_and_twice_where_a_round_may_be_repaired() -> None:
    policy = SitePolicy(min_peers=3)
    every = policy.noise_of(TERMS, told(1, least=MEMBERS))
    assert every == pytest.approx(2.0 * math.sqrt(4 / 5), rel=1e-6)
    assert policy.noise_of(TERMS, told(1, least=4)) == pytest.approx(every / math.sqrt(2))
    assert SitePolicy(min_peers=1).noise_of(TERMS, told(1, least=MEMBERS)) < every


@pytest.mark.parametrize("least", [3, MEMBERS])
def test_what_a_site_counts_for_a_masked_answer_is_the_noise_of_the_least_sum(
    own: Callable[..., Client], least: int
) -> None:
    client, told_so = own(min_peers=2), told(1, least=least)
    client.answers(told_so)
    last = Path(str(client.context.node_config["ledger-path"])).read_text(encoding="utf-8").splitlines()[-1]
    assert json.loads(last)["squared-mu"] == pytest.approx((1 if least == MEMBERS else 2) * MEMBERS / 3 / 2**2)


@pytest.mark.parametrize("heads", [True, False])
def test_a_site_works_as_long_and_answers_at_equal_length_whatever_its_coin_says(
    own: Callable[..., Client], monkeypatch: pytest.MonkeyPatch, heads: bool
) -> None:
    client = own()
    worked: list[str] = []
    released = answering._released
    monkeypatch.setattr(answering, "lands_heads", lambda *_: heads)
    monkeypatch.setattr(answering, "_released", lambda *args: worked.append("gradient") or released(*args))
    ledger = Path(str(client.context.node_config["ledger-path"]))
    lines = len(ledger.read_text(encoding="utf-8").splitlines())
    reply = client.answers(told(1))
    assert worked == ["gradient"]
    assert serialized_bytes(reply) == serialized_bytes(client.answers(told(2)))
    assert len(ledger.read_text(encoding="utf-8").splitlines()) == lines + 2, "a line each time"
    assert json.loads(ledger.read_text(encoding="utf-8").splitlines()[-1])["releases"] == (2 if heads else 0)


def test_what_leaves_on_tails_is_noise_and_on_heads_the_code(
    own: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the masks taken off, which only this test can, under noise so low that a code shows."""
    client = own(max_epsilon=0.0, min_noise_multiplier=0.0)
    terms, seen = replace(TERMS, noise_multiplier=0.01), []

    def overhear(values: np.ndarray, *_: Any) -> np.ndarray:
        seen.append(values)
        return values.astype(np.uint64) & np.uint64(1)

    monkeypatch.setattr(answering, "masked", overhear)
    for number, heads in enumerate([True, False, True, False]):
        monkeypatch.setattr(answering, "lands_heads", lambda *_, heads=heads: heads)
        client.answers(told(number), terms)
        norm = np.linalg.norm(seen[-1] * terms.grid_step)
        assert norm == pytest.approx(1.0, abs=0.1) if heads else norm < 0.1


def test_an_exhausted_site_answers_noise_at_equal_length(own: Callable[..., Client]) -> None:
    client = own(max_releases=1)
    lengths = {serialized_bytes(client.answers(told(number))) for number in range(1, 4)}
    assert len(lengths) == 1


def test_keys_of_a_site_that_are_wrong_are_refused_without_naming_files(
    own: Callable[..., Client], tmp_path: Path
) -> None:
    for name, content in (("peers", "zz\n"), ("peers", ""), ("key", "00"), ("peers", "00" * 32 + " zero\n")):
        client = own(seated=False)
        (tmp_path / name).write_text(content)
        with pytest.raises(PolicyRefusal, match=r"cannot be read; why is in its own log") as refusal:
            client.key()
        assert str(tmp_path) not in str(refusal.value)
        for file in ("ledger.jsonl", "key"):
            (tmp_path / file).unlink()
    for name, mode in (("key", 0o644), ("peers", 0o646)):
        client = own(seated=False)
        (tmp_path / name).chmod(mode)
        with pytest.raises(PolicyRefusal, match="cannot be read"):
            client.key()
        for file in ("ledger.jsonl", "key", "peers"):
            (tmp_path / file).unlink()


def test_one_of_both_files_is_not_enough(adapted: AdaptedModel, tmp_path: Path) -> None:
    client = Client(adapted, {"site-key": str(tmp_path / "key")})
    with pytest.raises(PolicyRefusal, match="set both"):
        client.key()


def test_what_was_answered_is_on_disk_before_the_answer_and_outlives_state_and_worker(
    own: Callable[..., Client],
) -> None:
    """Superexec, worker and reply's state die together after the reply has gone: no mask is used twice."""
    client = own()
    before = client.context.state[seat.RECORD]
    client.answers(told(1))
    client.repairs(1, {0, 1, 2, 3})
    for ask in (lambda: client.answers(told(1)), lambda: client.answers(told(0))):
        client.context.state[seat.RECORD] = before
        seat._answered.clear()
        with pytest.raises(WireError, match="is answered already"):
            ask()
    client.context.state[seat.RECORD] = before
    client.answers(told(2))


def test_a_repair_is_on_disk_before_it_is_given_and_outlives_state_and_worker(own: Callable[..., Client]) -> None:
    """Else the same answer would come under masks with other survivors, from a state that was brought back."""
    client = own()
    client.answers(told(1))
    before = dict(client.context.state)
    client.repairs(1, {0, 1, 2, 3})
    client.context.state = RecordDict(before)
    seat._answered.clear()
    with pytest.raises(WireError, match="is answered already"):
        client.repairs(1, {1, 2, 3, 4})


@pytest.mark.parametrize("asked_again_as", ["one", "other", ""])
def test_only_the_message_that_a_worker_died_over_is_answered_again_without_rows(
    own: Callable[..., Client], asked_again_as: str
) -> None:
    """A server could let another expire at once, and so get zeros under masks that a code has left under."""
    client = own()
    before = client.context.state[seat.RECORD]
    with rows_allowed(True, "one"):
        client.answers(told(1))
    client.context.state[seat.RECORD] = before
    seat._answered.clear()
    with rows_allowed(False, asked_again_as):
        if asked_again_as == "one":
            client.answers(told(1))
        else:
            with pytest.raises(WireError, match="is answered already"):
                client.answers(told(1))


def test_what_a_worker_died_over_before_it_wrote_it_down_is_written_down_without_rows(
    own: Callable[..., Client],
) -> None:
    client = own()
    before = client.context.state[seat.RECORD]
    with rows_allowed(False, "one"):
        client.answers(told(1))
    client.context.state[seat.RECORD] = before
    seat._answered.clear()
    with pytest.raises(WireError, match="is answered already"):
        client.answers(told(1))


def test_a_torn_line_takes_no_later_one_with_it(tmp_path: Path) -> None:
    ledger, key = str(tmp_path / "ledger"), bytes(32)
    claim(ledger, key, 1, 0)
    with Path(ledger + ".exchanges").open("ab") as file:
        file.write(key.hex().encode() + b" 2 0")
    claim(ledger, key, 3, 0)
    for exchange in (3, 2, 1):
        with pytest.raises(WireError):
            claim(ledger, key, exchange, 0)


def test_a_run_that_asks_often_makes_no_site_forget_what_another_was_answered(tmp_path: Path) -> None:
    """Its questions may be free: a coin of next to no rate, or keys alone."""
    ledger, one, other = str(tmp_path / "ledger"), bytes(32), bytes([1] * 32)
    claim(ledger, one, 7, 0)
    with Path(ledger + ".exchanges").open("ab") as file:  # what 20,000 answers leave
        file.writelines(
            b"%s %d 0 %s\n" % (other.hex().encode(), number, bytes(16).hex().encode()) for number in range(20_000)
        )
    claim(ledger, other, 20_001, 0)
    with pytest.raises(WireError, match="is answered already"):
        claim(ledger, one, 7, 0)


def test_keys_that_nothing_was_answered_under_push_nothing_out_of_a_workers_memory(own: Callable[..., Client]) -> None:
    client = own()
    client.answers(told(1))
    before = seat.Seat.of(client.context.state)
    assert before is not None
    assert before.public not in seat._answered, "a site that writes down is not remembered: that would be told"
    before.keep(RecordDict(), in_memory=True)
    for _ in range(5_000):
        seat.fresh_seat(new_private_key(), before).keep(RecordDict())
    assert seat._answered[before.public] == (1, False)
