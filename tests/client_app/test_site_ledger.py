"""What a site's own messages have cost it, and the limits on that."""

import json
import logging
import math
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto

from client_app import new_ledger
from client_app.node_config import PolicyRefusal
from client_app.policy import SitePolicy
from client_app.site_ledger import RECORD, LimitReached, SiteLedger, charge_release, create_ledger, read_line
from common.privacy.accounting import epsilon
from common.privacy.gaussian import gaussian_epsilon
from common.privacy.mechanism import ReleaseTerms, Trust
from common.privacy.price import message_charge, noise_slack

DELTA = 1e-5
UNKNOWN = r"^this site refuses: its ledger cannot be read, so what it has spent is unknown; why is in its own log$"


def terms(noise: float = 1.0, trust: Trust = "local", shares: int = 4, size: int = 16) -> ReleaseTerms:
    return ReleaseTerms(size, 1.0, noise, trust, shares, normalize=True)


def spending(state: RecordDict) -> SiteLedger:
    found = SiteLedger.of(state[RECORD])
    assert found is not None
    return found


def test_releases_are_counted_in_the_clients_state_and_refused_beyond_the_limit() -> None:
    state, other = RecordDict(), RecordDict()
    for _ in range(2):
        charge_release(state, SitePolicy(max_releases=2), terms())  # every message makes its own policy object
    for _ in range(2):
        with pytest.raises(LimitReached, match=r"^this site refuses: its max-releases = 2 is reached$"):
            charge_release(state, SitePolicy(max_releases=2), terms())
    assert spending(state).releases == 2
    charge_release(other, SitePolicy(max_releases=2), terms())


def test_without_a_limit_no_ledger_is_kept() -> None:
    state = RecordDict()
    for _ in range(5):
        charge_release(state, SitePolicy(), terms(0.0), raw=True)
    assert not state


def test_without_a_limit_a_file_counts_all_the_same(tmp_path: Path) -> None:
    """A limit that is set later must find what was released before."""
    create_ledger(tmp_path / "spent.jsonl")
    charge_release(RecordDict(), SitePolicy(ledger_path=str(tmp_path / "spent.jsonl")), terms(4.0))
    limit = gaussian_epsilon(math.sqrt(1.5) / 4, DELTA)
    with pytest.raises(LimitReached):
        charge_release(
            RecordDict(), SitePolicy(ledger_path=str(tmp_path / "spent.jsonl"), max_epsilon=limit), terms(4.0)
        )


def test_epsilon_is_the_exact_composition_of_every_messages_own_noise() -> None:
    """Against the guarantee's own accountant, for messages of different noise and trust."""
    asked = [terms(4.0), terms(8.0, "distributed", shares=9), terms(3.0), terms(3.0)]
    ledger = SiteLedger()
    for one in asked:
        ledger = ledger.after(one)
    assert ledger.releases == 4
    usable = DELTA - sum(map(noise_slack, asked))
    assert ledger.epsilon(DELTA) == pytest.approx(epsilon([message_charge(one) for one in asked], usable), rel=1e-9)


def test_the_last_message_within_the_limit_is_allowed_and_the_next_refused() -> None:
    """Three messages of z = 4 cost what one of z = 4/sqrt 3 does."""
    limit = gaussian_epsilon(math.sqrt(3) / 4, DELTA) * (1 + 1e-6)
    policy, state = SitePolicy(max_epsilon=limit), RecordDict()
    for _ in range(3):
        charge_release(state, policy, terms(4.0))
    said = (
        rf"^this site refuses: this message would go beyond its max-epsilon = {limit:.6g} \(at policy-delta = 1e-05\)$"
    )
    for _ in range(2):
        with pytest.raises(LimitReached, match=said):
            charge_release(state, policy, terms(4.0))
    assert spending(state).releases == 3, "a refused message costs nothing"
    charge_release(state, policy, terms(1e5))  # a cheaper one still fits


def test_delta_is_the_sites_own() -> None:
    limit = gaussian_epsilon(1 / 4, 1e-5) * 1.001
    charge_release(RecordDict(), SitePolicy(max_epsilon=limit), terms(4.0))
    with pytest.raises(PolicyRefusal, match="policy-delta = 1e-09"):
        charge_release(RecordDict(), SitePolicy(max_epsilon=limit, policy_delta=1e-9), terms(4.0))


BARE: list[tuple[ReleaseTerms, bool]] = [(terms(0.0), False), (terms(100.0, "central"), False), (terms(100.0), True)]


@pytest.mark.parametrize(("asked", "raw"), BARE, ids=["no noise", "central", "in the clear"])
def test_a_message_without_noise_costs_infinity_even_where_raw_gradients_are_allowed(
    asked: ReleaseTerms, raw: bool
) -> None:
    state = RecordDict()
    with pytest.raises(PolicyRefusal, match=r"alone would cost epsilon = inf, above its max-epsilon = 20 "):
        charge_release(state, SitePolicy(max_epsilon=20.0, allow_raw_gradients=True), asked, raw=raw)
    assert not state


def test_what_was_sent_bare_stays_spent() -> None:
    state = RecordDict()
    charge_release(state, SitePolicy(max_releases=9), terms(0.0))
    with pytest.raises(LimitReached, match="would go beyond its max-epsilon = 20"):
        charge_release(state, SitePolicy(max_epsilon=20.0), terms(1e5))


def test_an_epsilon_that_the_discrete_noise_was_not_bounded_for_is_infinite() -> None:
    assert SiteLedger().after(terms(0.5)).epsilon(DELTA) < 20
    assert SiteLedger().after(terms(0.2)).epsilon(DELTA) == math.inf


def test_what_discrete_noise_costs_is_taken_out_of_delta() -> None:
    """A million shares of a huge code: the approximation alone uses up a small delta."""
    wide = SiteLedger().after(terms(1e4, "distributed", shares=2**20, size=10**8))
    assert 1e-8 < wide.slack < 1e-4
    delta = 2 * wide.slack
    assert wide.epsilon(delta) == pytest.approx(gaussian_epsilon(math.sqrt(wide.squared_mu), wide.slack))
    assert wide.epsilon(1e-8) == math.inf


def test_the_ledger_travels_with_the_state() -> None:
    """Flower sends the state through protobuf between two messages of a run; inf must survive it."""
    state, policy = RecordDict(), SitePolicy(max_releases=9)
    for noise in (3.0, 0.0):
        charge_release(state, policy, terms(noise))
        state = recorddict_from_proto(recorddict_to_proto(state))
    assert spending(state) == SiteLedger(2, math.inf, noise_slack(terms(3.0)))


GOOD: dict[str, Any] = {"schema": 1, "releases": 3, "squared-mu": 0.5, "slack": 1e-15}
BROKEN: list[Any] = [
    ConfigRecord({}),
    ConfigRecord({"releases": 3}),
    ArrayRecord({}),
    *(
        ConfigRecord(GOOD | change)
        for change in (
            {"schema": 2},
            {"releases": 0},
            {"releases": -1},
            {"releases": 3.0},
            {"releases": "3"},
            {"releases": True},
            {"squared-mu": 0.0},
            {"squared-mu": -1.0},
            {"squared-mu": math.nan},
            {"squared-mu": "0.5"},
            {"squared-mu": [0.5]},
            {"slack": -1e-3},
            {"slack": math.nan},
            {"more": 1},
        )
    ),
]


@pytest.mark.parametrize("record", BROKEN, ids=str)
def test_a_state_that_is_no_ledger_is_a_refusal_and_is_left_as_it_is(record: Any) -> None:
    """Neither a crash nor a fresh start; the text repeats nothing of what was found."""
    state = RecordDict({RECORD: record})
    for policy in (SitePolicy(max_epsilon=20.0), SitePolicy(max_releases=100)):
        with pytest.raises(PolicyRefusal, match=r"so what it has spent is unknown; why is in its own log$"):
            charge_release(state, policy, terms(1e5))
    assert state[RECORD] == record


def test_a_good_record_is_read() -> None:
    state = RecordDict({RECORD: ConfigRecord(GOOD)})
    charge_release(state, SitePolicy(max_epsilon=20.0), terms(2.0))
    assert spending(state) == SiteLedger(4, 0.75, 1e-15 + noise_slack(terms(2.0)))


@pytest.fixture
def kept(tmp_path: Path) -> SitePolicy:
    create_ledger(tmp_path / "spent.jsonl")
    return SitePolicy(max_releases=3, max_epsilon=20.0, ledger_path=str(tmp_path / "spent.jsonl"))


def on_disk(policy: SitePolicy) -> list[SiteLedger]:
    """Its charges, without the line that an empty ledger begins with."""
    found = [read_line(line) for line in Path(policy.ledger_path).read_bytes().splitlines()[1:]]
    return [ledger for ledger in found if ledger is not None]


def test_a_file_counts_all_runs_together(kept: SitePolicy) -> None:
    """Every run, and every restart of the SuperNode, has a state of its own."""
    for _ in range(3):
        charge_release(RecordDict(), kept, terms(2.0))
    with pytest.raises(LimitReached, match="its max-releases = 3 is reached"):
        charge_release(RecordDict(), kept, terms(2.0))
    assert [line.releases for line in on_disk(kept)] == [1, 2, 3, 3]
    assert on_disk(kept)[-1] == SiteLedger(3, 0.75, 3 * noise_slack(terms(2.0)))
    assert Path(kept.ledger_path).stat().st_mode & 0o777 == 0o600


def test_a_file_and_a_state_spend_alike(kept: SitePolicy) -> None:
    state, asked = RecordDict(), [terms(4.0), terms(8.0, "distributed", shares=9), terms(3.0)]
    for one in asked:
        charge_release(state, SitePolicy(max_releases=9), one)
        charge_release(RecordDict(), kept, one)
    assert on_disk(kept)[-1] == spending(state)


@pytest.mark.parametrize("first", ["charged", "covered", "full", "died before"])
def test_a_message_that_is_answered_again_is_charged_once(kept: SitePolicy, first: str) -> None:
    """A worker died over it; where that was before the charge, rows that let it live would have been charged."""
    policy = replace(kept, max_releases=1) if first == "full" else kept
    if first == "full":
        charge_release(RecordDict(), policy, terms(2.0), message="before")
    if first != "died before":
        with suppress(LimitReached):
            charge_release(RecordDict(), policy, terms(2.0), spend=first != "covered", message="one")
    with suppress(LimitReached):
        charge_release(RecordDict(), policy, terms(2.0), message="one")
    releases = on_disk(policy)[-1].releases
    assert releases == (0 if first == "covered" else 1)
    charge_release(RecordDict(), replace(kept, max_releases=2), terms(2.0), message="another")
    assert on_disk(policy)[-1].releases == releases + 1


def test_a_ledger_of_before_its_lines_named_messages_goes_on(kept: SitePolicy) -> None:
    with Path(kept.ledger_path).open("a", encoding="utf-8") as file:
        file.write(json.dumps(GOOD | {"releases": 2}) + "\n")
    charge_release(RecordDict(), kept, terms(2.0), message="one")
    assert on_disk(kept)[-1].releases == 3


def test_what_a_refused_message_would_have_cost_is_not_written(kept: SitePolicy) -> None:
    charge_release(RecordDict(), kept, terms(2.0))
    before = Path(kept.ledger_path).read_bytes()
    with pytest.raises(PolicyRefusal, match="alone would cost epsilon = inf"):
        charge_release(RecordDict(), kept, terms(0.0))
    assert Path(kept.ledger_path).read_bytes() == before


@pytest.mark.parametrize("torn", [b"{", b'{"schema": 1, "rel'])
@pytest.mark.parametrize("before", [0, 1])
def test_a_line_torn_by_a_crash_was_not_paid_with(kept: SitePolicy, before: int, torn: bytes) -> None:
    for _ in range(before):
        charge_release(RecordDict(), kept, terms(2.0))
    with Path(kept.ledger_path).open("ab") as file:
        file.write(torn)
    charge_release(RecordDict(), kept, terms(2.0))
    assert [line.releases for line in on_disk(kept)] == list(range(1, before + 2))


NO_LEDGERS = ["[]\n", "not JSON\n", '{"releases": 3}\n', "\n", "a file of something else", "", "[" * 100_000 + "\n"]


@pytest.mark.parametrize("text", NO_LEDGERS, ids=lambda text: text[:8])
def test_a_file_that_is_no_ledger_is_a_refusal_and_is_left_as_it_is(kept: SitePolicy, text: str) -> None:
    Path(kept.ledger_path).write_text(text, encoding="utf-8")
    with pytest.raises(PolicyRefusal, match=UNKNOWN):
        charge_release(RecordDict(), kept, terms(2.0))
    assert Path(kept.ledger_path).read_text(encoding="utf-8") == text


@pytest.mark.parametrize("place", ["spent.jsonl", "none/spent.jsonl", "."])
def test_a_file_that_is_not_there_is_a_refusal_and_no_fresh_start(
    tmp_path: Path, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Rotated away, an unmounted volume, a folder in its place: where it should be is for the site's own log only."""
    policy = SitePolicy(max_releases=3, ledger_path=str(tmp_path / place))
    logging.getLogger("flwr").addHandler(caplog.handler)
    try:
        for _ in range(2):
            with pytest.raises(PolicyRefusal, match=UNKNOWN):
                charge_release(RecordDict(), policy, terms(2.0))
    finally:
        logging.getLogger("flwr").removeHandler(caplog.handler)
    assert not (tmp_path / "spent.jsonl").exists()
    assert str(tmp_path) in caplog.text


def test_a_ledger_that_every_user_may_write_is_a_refusal(kept: SitePolicy) -> None:
    """Whoever has a file of the machine open could set it back to nothing spent."""
    Path(kept.ledger_path).chmod(0o666)
    with pytest.raises(PolicyRefusal, match=UNKNOWN):
        charge_release(RecordDict(), kept, terms(2.0))
    Path(kept.ledger_path).chmod(0o664)
    charge_release(RecordDict(), kept, terms(2.0))


def test_a_ledger_that_vanishes_between_two_messages_is_a_refusal(kept: SitePolicy) -> None:
    charge_release(RecordDict(), kept, terms(2.0))
    Path(kept.ledger_path).unlink()
    with pytest.raises(PolicyRefusal, match=UNKNOWN):
        charge_release(RecordDict(), kept, terms(2.0))


def test_a_ledger_is_made_once_by_a_command_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "spent.jsonl"
    assert new_ledger.main([str(path)]) == ""
    made = path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    assert "is there already" in new_ledger.main([str(path)])
    assert path.read_bytes() == made
    assert "could not be made: No such file" in new_ledger.main([str(tmp_path / "none" / "spent.jsonl")])
    for wrong in ([], ["spent.jsonl"], [str(path), "more"]):
        assert new_ledger.main(wrong).startswith("usage: ")


def _charge_often(path: str) -> None:
    for _ in range(20):
        charge_release(RecordDict(), SitePolicy(max_releases=1000, ledger_path=path), terms(2.0))


def test_two_runs_at_once_share_a_file(tmp_path: Path) -> None:
    path = str(tmp_path / "spent.jsonl")
    create_ledger(Path(path))
    with ThreadPoolExecutor(4) as pool:  # flock is per open file, so threads stand for processes
        list(pool.map(_charge_often, [path] * 4))
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["releases"] for line in lines] == list(range(81))
