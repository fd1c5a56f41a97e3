"""Cover traffic: who is in a cohort cannot be read off the messages; the noise and the charges are those without it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message, RecordDict
from flwr.common.serde import message_to_proto
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from hypothesis import given, settings
from hypothesis import strategies as st

import client_app.app as handlers
from client_app.policy import PolicyRefusal, SitePolicy
from client_app.site_ledger import RECORD, charge_release
from common.codecs.identity import IdentityCodec
from common.config import RunConfig
from common.model.adapted import AdaptedModel
from common.privacy.mechanism import ReleaseTerms
from common.wire.assignment import Task
from common.wire.records import group_of, is_cover, pack_instruction, round_of
from server_app.run import run_federation
from server_app.strategies.base import FederatedAdapter
from tests.support.false_alarms import rms_outside, statistical
from tests.support.seeded import seed_randomness
from tests.support.strategy_runs import Make, rounds_of
from tests.support.tiny import CLIENTS, Files, run_tiny, start, tiny_config, tiny_grid, tiny_strategy
from workbench.simulation.in_process import InProcessGrid

SAMPLED: dict[str, Any] = {
    "privacy.epsilon": 0.0,
    "privacy.noise-multiplier": 2.0,
    "privacy.trust": "distributed",
    "privacy.sampling-rate": 0.5,
    "stage-one.sampling-rate": 0.5,
    "data.evaluation": "",
    "num-server-rounds": 4,
}


def wire_bytes(message: Message) -> int:
    """What a passive observer counts of one message: all that Flower serializes, its metadata included."""
    return int(message_to_proto(message).ByteSize())


@dataclass
class Observer:
    """Counts bytes by (round, node) on the way to the nodes and back; the truth is kept apart."""

    grid: InProcessGrid
    down: dict[tuple[str, int], int] = field(default_factory=dict)
    up: dict[tuple[str, int], int] = field(default_factory=dict)
    members: set[tuple[str, int]] = field(default_factory=set)

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        of_grid = self.grid.answer

        def answer(message: Message) -> Message | None:
            where = (str(round_of(message)), message.metadata.dst_node_id)
            reply = of_grid(message)
            assert reply is not None
            self.down[where], self.up[where] = wire_bytes(message), wire_bytes(reply)
            if not is_cover(message):
                self.members.add(where)
            return reply

        monkeypatch.setattr(self.grid, "answer", answer)

    def accuracy(self, rounds: list[str]) -> float:
        """Of the best rule by lengths, balanced over members and others: 1/2 is chance, 1 finds every membership.

        A rule may name any set of (bytes down, bytes up), nothing at all among them, as those of members: that which
        fits the truth best is taken, which no real observer knows.
        """
        seen = {
            (name, node): (self.down.get((name, node), 0), self.up.get((name, node), 0))
            for name in rounds
            for node in range(1, CLIENTS + 1)
        }
        inside = [seen[place] for place in seen if place in self.members]
        outside = [seen[place] for place in seen if place not in self.members]
        assert inside
        assert outside
        kinds = set(seen.values())
        gained = sum(max(inside.count(k) / len(inside), outside.count(k) / len(outside)) for k in kinds)
        return gained / 2


def observed(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> Observer:
    found = Observer(tiny_grid(config))
    found.watch(monkeypatch)
    run_federation(found.grid, config, plots=False)
    return found


@pytest.mark.parametrize("strategy", ["dr-encoder", "fedcg", "fedlpp", "lora"])
@pytest.mark.parametrize("cover", [False, True])
def test_a_byte_counter_finds_every_membership_without_cover_and_none_with_it(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str, cover: bool
) -> None:
    """Stage 1 and rounds; cohorts are seeded, and none of them is empty or everybody."""
    changes = {"strategy.name": strategy, "federation.cover": cover, "seed": 2}
    seed_randomness(monkeypatch, 3, cohorts=2)
    config = tiny_config(files, tmp_path, SAMPLED | changes)
    found = observed(config, monkeypatch)
    stages = ["0"] * (strategy in {"dr-encoder", "fedcg"}) + [str(number) for number in range(1, 5)]
    assert {name for name, _ in found.members} == set(stages)
    for name in stages:
        assert found.accuracy([name]) == (0.5 if cover else 1.0), name
    assert len(found.down) == (CLIENTS * len(stages) if cover else len(found.members))


@given(
    number=st.integers(0, 2**31 - 1),
    size=st.integers(1, 300),
    noise=st.sampled_from([0.0, 0.5, 17.0]),
    shares=st.integers(1, 2**20),
    raw=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_an_instruction_is_as_long_for_a_client_outside_the_cohort(
    adapted: AdaptedModel, number: int, size: int, noise: float, shares: int, raw: bool
) -> None:
    """Whatever the round's number: the whole message for one node; what it holds is one content for all."""
    terms = ReleaseTerms(size, 1.0, noise, "distributed", shares, True)
    content = pack_instruction(
        adapted.initial, IdentityCodec(adapted.layout).spec(), Task(number, terms, "digest", raw)
    )
    one, other = (
        Message(content, dst_node_id=2**63 + 5, message_type="train", ttl=9.0, group_id=group_of(number, cover=cover))
        for cover in (False, True)
    )
    assert [is_cover(message) for message in (one, other)] == [False, True]
    assert round_of(one) == round_of(other) == number
    assert wire_bytes(one) == wire_bytes(other)


@pytest.mark.parametrize("trust", ["central", "distributed", "local"])
def test_with_cover_the_same_is_charged_and_bytes_of_everybody_are_counted(
    make: Make, draw: Callable[..., None], trust: str
) -> None:
    """The cohort's replies count, and only they; bytes are those of all six."""
    books = {}
    for cover in (False, True):
        draw(0, 2, 0)
        changes = {"privacy.trust": trust, "federation.cover": cover, "num-server-rounds": 2}
        strategy, grid = make(SAMPLED | changes)
        start(strategy, grid)
        books[cover] = (strategy.account, rounds_of(strategy))
    (plain, without), (covered, rows) = books[False], books[True]
    assert plain._ledger.charges == covered._ledger.charges
    assert plain.message_noise == covered.message_noise
    for bare, row in zip(without, rows, strict=True):
        assert (row.cohort, row.replies, row.failures) == (bare.cohort, bare.replies, bare.failures)
        assert (row.noise_promised, row.noise_present) == (bare.noise_promised, bare.noise_present)
        assert (row.asked, row.answered) == (CLIENTS, CLIENTS)
    assert rows[0].bytes_up == without[0].bytes_up * CLIENTS / 2
    assert rows[0].bytes_down == without[0].bytes_down * CLIENTS / 2
    assert rows[1].bytes_up == rows[0].bytes_up, "an empty cohort looks like any other"


@statistical(rms_outside(0.94, 1.06, 3072), "system")
def test_the_step_of_an_empty_cohort_has_exactly_the_noise_that_is_charged(
    make: Make, draw: Callable[..., None]
) -> None:
    """Six covered clients sent a share each: had they been summed the noise would be larger, or refused as too many."""
    draw(0, 0)
    strategy, grid = make(SAMPLED | {"federation.cover": True, "num-server-rounds": 1, "server.learning-rate": 1.0})
    before = strategy.state.optimizer.adapter
    moved = (start(strategy, grid) - before) * CLIENTS * 0.5
    assert 0.94 < moved.square().mean().sqrt() / 2.0 < 1.06


def test_a_covered_client_computes_nothing_of_its_data(
    make: Make, draw: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def compute(*_: Any) -> Any:
        raise AssertionError("the client's data was used")

    monkeypatch.setattr(handlers, "local_update", compute)
    monkeypatch.setattr(handlers, "gradient_stream", compute)
    draw(0, 0)
    strategy, grid = make(SAMPLED | {"federation.cover": True, "num-server-rounds": 1, "server.learning-rate": 1.0})
    start(strategy, grid)
    assert [(row.answered, row.failures) for row in rounds_of(strategy)] == [(CLIENTS, 0)]


def test_a_covered_client_that_fails_costs_nobody_a_reply(
    make: Make, draw: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its failure is no shortage of the cohort, which is complete."""
    draw(0, 2)
    strategy, grid = make(SAMPLED | {"federation.cover": True, "num-server-rounds": 1, "server.learning-rate": 1.0})
    of_grid = grid.answer
    monkeypatch.setattr(grid, "answer", lambda m: None if m.metadata.dst_node_id == CLIENTS else of_grid(m))
    start(strategy, grid)
    (row,) = rounds_of(strategy)
    assert (row.cohort, row.replies, row.failures, row.shortage) == (2, 2, 0, "")
    assert (row.asked, row.answered) == (CLIENTS, CLIENTS - 1)


def test_everybody_is_asked_in_an_order_that_does_not_tell(make: Make) -> None:
    """With few messages in flight the order is seen."""
    strategy, grid = make(SAMPLED | {"federation.cover": True})
    for number in range(1, 5):
        messages = strategy.configure_train(number, _packed(strategy), None, grid)  # type: ignore[arg-type]
        assert [message.metadata.dst_node_id for message in messages] == list(range(1, CLIENTS + 1))


def _packed(strategy: FederatedAdapter) -> Any:
    from server_app.rounds.state import pack_adapter  # noqa: PLC0415

    strategy.state.codec = IdentityCodec(strategy.layout)
    return pack_adapter(strategy.state.optimizer.adapter)


def test_cover_is_refused_where_a_release_would_be_and_never_charged() -> None:
    """Else an exhausted site would tell who is sampled: a refusal is short."""
    terms = ReleaseTerms(8, 1.0, 1.0, "local", 1, True)
    state, policy = RecordDict(), SitePolicy(max_releases=1)
    charge_release(state, policy, terms, spend=False)
    assert RECORD not in state
    charge_release(state, policy, terms)
    for spend in (True, False):
        with pytest.raises(PolicyRefusal, match="max-releases"):
            charge_release(state, policy, terms, spend=spend)
    assert state[RECORD]["releases"] == 1


def test_a_report_of_a_covered_run_counts_all_clients(files: Files, tmp_path: Path) -> None:
    import json  # noqa: PLC0415

    config = tiny_config(files, tmp_path, SAMPLED | {"federation.cover": True, "strategy.name": "lora"})
    folder = run_tiny(config)
    wire = json.loads((folder.path / "report.json").read_text())["communication"]
    rows = [row for row in folder.read_metrics() if row["round"]]
    assert wire["cover"] is True
    assert sum(row["bytes_up"] for row in rows) == pytest.approx(wire["expected_bytes_up"])
    assert sum(row["bytes_down"] for row in rows) == pytest.approx(wire["expected_bytes_down"], rel=1e-3)
    assert "cover traffic included: every client is asked in every round" in (folder.path / "report.md").read_text()
    assert np.isclose(wire["per_client_run"]["up"] / len(rows) * CLIENTS, rows[0]["bytes_up"])


@pytest.mark.parametrize("cover", [False, True])
def test_instructions_of_a_round_say_one_time(files: Files, adapted: AdaptedModel, tmp_path: Path, cover: bool) -> None:
    """By the microseconds between their own, two clients told in 388 of 400 rounds whether one between was asked."""
    changes = {"strategy.name": "lora", "privacy.sampling-rate": 0.5 if cover else 1.0, "federation.cover": cover}
    config = tiny_config(files, tmp_path, SAMPLED | changes)
    tiny_grid(config)  # without a run Flower makes no message
    strategy = tiny_strategy(config, adapted, tmp_path)
    strategy.state.codec = strategy.recipe.codec
    opened = strategy.configure(1, adapted.initial)
    said = [each.metadata.created_at for each in opened.messages]
    assert len(said) == CLIENTS
    assert len(set(said)) == 1
    valid = [each.metadata.ttl for each in opened.messages]
    assert len(set(valid)) == CLIENTS
    assert max(valid) - min(valid) < 0.5


@pytest.mark.parametrize("cover", [False, True])
def test_nobody_can_name_the_instruction_of_another_client(
    files: Files, adapted: AdaptedModel, tmp_path: Path, cover: bool
) -> None:
    """Flower gives any registered node an object by its name, a hash: of all that one's own instruction does not hide.

    So one client told of another, whose node id it knew, in what round it was sampled, by asking for both it could be.
    """
    changes = {"strategy.name": "lora", "privacy.sampling-rate": 0.5 if cover else 1.0, "federation.cover": cover}
    config = tiny_config(files, tmp_path, SAMPLED | changes)
    tiny_grid(config)
    strategy = tiny_strategy(config, adapted, tmp_path)
    strategy.state.codec = strategy.recipe.codec
    own, *others = strategy.configure(1, adapted.initial).messages
    names = {other.object_id for other in others}
    for other in others:
        for group in (own.metadata.group_id, other.metadata.group_id):
            made = Message(own.content, dst_node_id=1, message_type="train", ttl=1.0, group_id="1")
            changes = {"_dst_node_id": other.metadata.dst_node_id, "_group_id": group}
            made.metadata.__dict__.update({**vars(own.metadata), **changes})
            assert made.object_id not in names
            made.metadata.ttl = other.metadata.ttl  # the one thing that it lacks
            assert (made.object_id in names) == (group == other.metadata.group_id)


def test_what_cover_holds_has_the_names_of_what_members_are_sent(
    files: Files, adapted: AdaptedModel, tmp_path: Path
) -> None:
    """Else a client outside the cohort learned by a record's name that there is one, until all had fetched it."""
    config = tiny_config(files, tmp_path, SAMPLED | {"strategy.name": "lora", "federation.cover": True, "seed": 2})
    tiny_grid(config)
    strategy = tiny_strategy(config, adapted, tmp_path)
    strategy.state.codec = strategy.recipe.codec
    names: dict[bool, set[str]] = {True: set(), False: set()}
    while not all(names.values()):
        for message in strategy.configure(1, adapted.initial).messages:
            names[is_cover(message)] |= set(get_all_nested_objects(message)) - {message.object_id}
    assert names[True] == names[False]
