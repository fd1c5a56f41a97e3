"""What a strategy lets be seen: noise, cohorts, messages, sensitivity."""

import math
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, RecordDict
from flwr.common.serde import recorddict_to_proto

from client_app import app as client_module
from client_app.release import release_gradient
from common.model.adapted import AdaptedModel
from common.privacy.mechanism import ReleaseTerms, Trust, combine, release
from common.privacy.noise import RandomSource
from common.scale_code import ScaleCode
from common.wire.records import ADAPTER, ASSIGNMENT, HEAD, STATISTICS, TASK, TRAIN, read_head, round_of
from server_app.privacy.ledger import Ledger
from server_app.strategies.base import FederatedAdapter
from tests.support.false_alarms import count_outside, rms_outside, statistical
from tests.support.grids import TinyGrid, faulty
from tests.support.messages import Reader
from tests.support.strategy_runs import NOISY, VARIANTS, Make, rounds_of
from tests.support.tiny import CLIENTS, start, vectors

pytestmark = pytest.mark.usefixtures("few_steps")

ONE_STEP = {"num-server-rounds": 1, "server.learning-rate": 1.0}
"""The adapter of ``lora`` moves by the mean code itself."""


@pytest.mark.parametrize(("trust", "deviation"), [("central", 1.0), ("distributed", 1.0), ("local", CLIENTS**0.5)])
@statistical(rms_outside(0.94, 1.06, 3072), "system")
def test_the_noise_of_a_whole_round_is_what_was_charged(make: Make, trust: str, deviation: float) -> None:
    """3,072 values: a false alarm in 2.6e-6 (chi squared, as in all tests of this band); misses 10 % in .2 %."""
    adapters = []
    for changes in ({}, {**NOISY, "privacy.trust": trust, "privacy.clip-norm": 0.5}):
        strategy, grid = make({**ONE_STEP, "privacy.clip-norm": 0.5, **changes})
        adapters.append(start(strategy, grid).double())
    noise = (adapters[1] - adapters[0]) * CLIENTS
    assert 0.94 < noise.square().mean().sqrt() / (2.0 * 0.5 * deviation) < 1.06


@pytest.mark.parametrize("selected", [0, 1, 2, 5, 6])
@statistical(rms_outside(0.94, 1.06, 3072), "system")
def test_the_noise_on_the_total_is_the_same_for_every_cohort(
    make: Make, draw: Callable[..., None], selected: int
) -> None:
    """std z C under a public number of shares, which is six here; 3,072 values: a false alarm in 2.6e-6."""
    draw(0, selected)
    adapters = []
    for noise in ({}, {**NOISY, "privacy.trust": "distributed"}):
        changes = {**ONE_STEP, "privacy.clip-norm": 0.5, "privacy.sampling-rate": 0.9}
        strategy, grid = make({**changes, **noise})
        assert strategy.account.plan.shares == CLIENTS
        adapters.append(start(strategy, grid).double())
    assert [r.replies for r in rounds_of(strategy)] == [selected]
    total = (adapters[1] - adapters[0]) * 0.9 * CLIENTS
    assert 0.94 < total.square().mean().sqrt() / (2.0 * 0.5) < 1.06


@statistical(rms_outside(0.94, 1.06, 3072), "system")
def test_the_noise_on_the_total_is_the_same_when_clients_do_not_reply(make: Make) -> None:
    """The server adds the shares of the five that are missing, although the round counts as failed."""
    adapters = []
    for noise in ({"federation.min-reply-rate": 0.1}, {**NOISY, "privacy.trust": "distributed"}):
        strategy, grid = make({**ONE_STEP, **noise})
        adapters.append(start(strategy, faulty(grid, raising={2, 3, 4}, silent={5, 6})).double())
    (seen,) = rounds_of(strategy)
    assert seen.shortage
    assert 0.94 < ((adapters[1] - adapters[0]) * CLIENTS).square().mean().sqrt() / 2.0 < 1.06
    assert 2.0 == seen.noise_promised < seen.noise_present < 2.0001


@pytest.mark.parametrize("trust", ["central", "distributed", "local"])
@statistical(rms_outside(0.94, 1.06, 3072), "system")
def test_with_a_third_of_the_clients_missing_a_round_carries_the_noise_that_it_states(make: Make, trust: str) -> None:
    """At least what was charged; 3,072 values: a false alarm in 2.6e-6."""
    adapters = []
    for noise in ({}, {**NOISY, "privacy.trust": trust}):
        strategy, grid = make({**ONE_STEP, "privacy.clip-norm": 0.5, "federation.min-reply-rate": 0.5, **noise})
        adapters.append(start(strategy, faulty(grid, raising={2}, silent={5})).double())
    (seen,) = rounds_of(strategy)
    assert (seen.replies, seen.shortage) == (CLIENTS - 2, "")
    assert 2.0 * 0.5 == seen.noise_promised < seen.noise_present
    noise = (adapters[1] - adapters[0]) * CLIENTS
    assert 0.94 < noise.square().mean().sqrt() / seen.noise_present < 1.06


def recorded(strategy: FederatedAdapter, grid: TinyGrid) -> list[tuple[str, int, RecordDict]]:
    """What every message said: its kind, its round, its content."""
    start(strategy, grid)
    return [(m.metadata.message_type, round_of(m), m.content) for m in grid.sent]


def as_bytes(content: RecordDict, *, without: tuple[str, ...] = (), round_index: int | None = None) -> bytes:
    """The serialized instruction, its adapter left out or its round replaced on request."""
    held: Any = {name: value for name, value in content.config_records[TASK].items() if name not in without}
    if round_index is not None:
        held[HEAD] = held[HEAD][:1] + struct.pack("<I", round_index) + held[HEAD][5:]
    return recorddict_to_proto(RecordDict({TASK: ConfigRecord(held)})).SerializeToString(deterministic=True)


@pytest.mark.parametrize("trust", ["distributed", "local", "central"])
def test_an_instruction_does_not_tell_how_many_clients_were_selected(
    make: Make, draw: Callable[..., None], trust: str
) -> None:
    """Rounds of 2, 6 and 3 clients: but for the adapter and the round's number, the very same bytes."""
    draw(0, 2, 6, 3)
    strategy, grid = make({**NOISY, "privacy.trust": trust, "privacy.sampling-rate": 0.9})
    sent = recorded(strategy, grid)
    assert [sum(number == index for _, index, _ in sent) for number in (1, 2, 3)] == [2, 6, 3]
    assert {index == read_head(content).round for _, index, content in sent} == {True}
    assert len({as_bytes(content, without=(ADAPTER, ASSIGNMENT), round_index=0) for _, _, content in sent}) == 1
    assert len({as_bytes(content, without=(ADAPTER, ASSIGNMENT)) for _, _, content in sent}) == 3


def test_an_instruction_of_stage_one_does_not_tell_how_many_clients_were_selected(
    make: Make, draw: Callable[..., None]
) -> None:
    """Two runs whose statistics come from 2 and from 6 clients."""
    found, read = [], Reader()
    for selected in (2, 6):
        draw(selected, 0)
        changes = {"strategy.name": "dr-encoder", "num-server-rounds": 1, "stage-one.sampling-rate": 0.9}
        changes["privacy.sampling-rate"] = 0.01
        sent = recorded(*make({**NOISY, "privacy.trust": "distributed", **changes}))
        assert [(kind, index) for kind, index, _ in sent] == [(STATISTICS, 0)] * selected
        assert {read(content).task.terms.shares for _, _, content in sent} == {CLIENTS}  # of its own rate
        found += [as_bytes(content) for _, _, content in sent]
    assert len(found) == 8
    assert len(set(found)) == 1


@statistical(rms_outside(0.94, 1.06, 3072), "system")
def test_a_cohort_beyond_the_noise_shares_counts_as_empty(make: Make) -> None:
    """Delta holds the probability; nobody is asked, the step of pure noise is taken, the round is charged."""
    strategy, grid = make({**NOISY, **ONE_STEP, "privacy.trust": "distributed"})
    strategy.account.plan = replace(strategy.account.plan, shares=CLIENTS - 1)
    before = strategy.state.optimizer.adapter
    after = start(strategy, grid)
    assert [(r.cohort, r.replies, r.bytes_down, r.shortage) for r in rounds_of(strategy)] == [(0, 0, 0, "")]
    assert 0.94 < ((after - before) * CLIENTS).square().mean().sqrt() / 2.0 < 1.06
    assert strategy.account.rounds_charged == 1


def test_a_cohort_of_as_many_as_there_are_noise_shares_is_asked(make: Make) -> None:
    strategy, _ = make({})
    drawn = strategy.draw_cohort(1, 0.5, CLIENTS)
    assert 0 < len(drawn) < CLIENTS
    assert strategy.draw_cohort(1, 0.5, len(drawn)) == drawn
    assert strategy.draw_cohort(1, 0.5, len(drawn) - 1) == []


def test_a_statistics_cohort_beyond_the_noise_shares_counts_as_empty(make: Make) -> None:
    """The private stage goes on from noise alone."""
    strategy, grid = make({**NOISY, "strategy.name": "dr-encoder", "num-server-rounds": 1})
    strategy.account.plan = replace(strategy.account.plan, stage_one_shares=CLIENTS - 1)
    sent = recorded(strategy, grid)
    assert {(kind, index) for kind, index, _ in sent} == {(TRAIN, 1)}
    assert [charge.label[:7] for charge in strategy.account._ledger.charges] == ["stage 1", "stage 2"]


@statistical(rms_outside(0.94, 1.06, 3072), "system")
def test_a_gradient_that_is_not_finite_is_hidden_by_the_noise(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody fails, and the model moves by ordinary noise."""
    strategy, grid = make({**NOISY, **ONE_STEP, "privacy.trust": "distributed"})
    broken = torch.full((strategy.layout.size,), math.nan)
    monkeypatch.setattr(client_module, "local_update", lambda *_: broken)
    before = strategy.state.optimizer.adapter
    after = start(strategy, grid)
    assert [(r.replies, r.failures) for r in rounds_of(strategy)] == [(CLIENTS, 0)]
    assert 0.94 < ((after - before) * CLIENTS).square().mean().sqrt() / 2.0 < 1.06


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("variant", VARIANTS)
def test_one_client_moves_the_aggregate_by_the_clip_norm_at_most(make: Make, variant: str, normalize: bool) -> None:
    """1,000 neighboring cohorts, one contribution replaced by zero, no noise."""
    noise = NOISY if variant == "fedcg, private" else {}
    strategy, grid = make({**noise, **VARIANTS[variant]})
    codec = strategy.prepare(grid)
    bound = 0.7
    terms = ReleaseTerms(codec.size, bound, 0.0, "central", 4, normalize=normalize)
    source = RandomSource.system()
    count = 1000
    scales = 10 ** vectors(1, count, 1)[0]
    largest = 0.0
    for gradients, scale in zip(vectors(2 * count, codec.dim, 2).view(count, 2, codec.dim), scales, strict=True):
        codec = codec.redraw(int(scale * 100) % 7)
        other, own = (release_gradient(g * scale, codec, terms, source) for g in gradients)
        nothing = np.zeros_like(own)  # not the code of a zero gradient: a learnt encoder has a bias
        moved = combine([other, own], terms, source) - combine([other, nothing], terms, source)
        largest = max(largest, float(moved.norm()))
    assert 0.99 * bound < largest <= bound * (1 + 1e-5)


def test_one_client_moves_the_statistics_by_their_bound_at_most(make: Make, adapted: AdaptedModel) -> None:
    strategy, _ = make({"strategy.name": "dr-encoder"})
    code = ScaleCode.of(adapted.layout, strategy.config.stage_one)
    trust: Trust = "central"
    terms = ReleaseTerms(code.size, code.bound, 0.0, trust, 2, normalize=False)
    worst = code.encode(torch.full((len(adapted.layout.tensors),), 1e-30))
    moved = combine([release(worst, terms, RandomSource.system())], terms, RandomSource.system())
    assert worst.norm() > code.bound
    assert moved.norm() == pytest.approx(code.bound, rel=1e-5)


@statistical(3 * count_outside(131, 269, 400, 0.5) + count_outside(51, 149, 400, 0.25), "seeded")
def test_cohorts_are_independent_of_the_statistics_and_of_each_other(make: Make) -> None:
    strategy, _ = make({})
    strategy.nodes = list(range(1, 401))
    draws = [set(strategy.draw_cohort(number, 0.5, 400)) for number in range(3)]
    assert len({frozenset(draw) for draw in draws}) == 3
    for draw in draws:
        assert 130 < len(draw) < 270
    assert 50 < len(draws[0] & draws[1]) < 150


def test_no_client_is_asked_to_evaluate(make: Make) -> None:
    strategy, grid = make({})
    assert strategy.configure_evaluate(1, None, None, grid) == []  # type: ignore[arg-type]
    assert strategy.aggregate_evaluate(1, []) is None


def test_the_ledger_of_a_run_without_noise_says_so(make: Make, tmp_path: Path) -> None:
    strategy, grid = make({})
    start(strategy, grid)
    (ledger,) = tmp_path.glob("*/ledger.jsonl")
    assert [charge.noise_multiplier for charge in Ledger(ledger).charges] == [0.0] * 3
    assert rounds_of(strategy)[-1].epsilon == math.inf
