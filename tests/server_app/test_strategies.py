"""What every strategy shares: rounds, failures, stops, noise, sensitivity."""

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, MetricRecord
from torch import Tensor

from server_app.rounds.cohort import FederationError
from server_app.rounds.divergence import VALIDATION_LOSS
from server_app.rounds.state import pack_adapter, unpack_adapter
from tests.support.false_alarms import count_outside, statistical
from tests.support.grids import faulty
from tests.support.strategy_runs import NOISY, Make, rounds_of
from tests.support.tiny import start


def test_a_round_goes_on_without_the_clients_that_failed(make: Make) -> None:
    strategy, grid = make(NOISY)
    start(strategy, faulty(grid, raising={1, 2}, silent={3}))
    rounds = rounds_of(strategy)
    assert [(r.cohort, r.replies, r.failures, r.shortage) for r in rounds] == [(6, 3, 3, "")] * 3
    assert rounds[0].failure == "MemoryError: node has no memory left (2 of 3 failures)"


def test_flowers_own_calls_make_the_same_round(make: Make) -> None:
    strategy, grid = make({"num-server-rounds": 1})
    after = start(strategy, grid)
    strategy, grid = make({"num-server-rounds": 1})
    strategy.state.codec = strategy.prepare(grid)
    arrays = pack_adapter(strategy.state.optimizer.adapter)
    with pytest.raises(RuntimeError, match="without its configure_train"):
        strategy.aggregate_train(1, [])
    messages = strategy.configure_train(1, arrays, ConfigRecord(), grid)
    with pytest.raises(RuntimeError, match="round 2 without its configure_train"):
        strategy.aggregate_train(2, [])
    found, metrics = strategy.aggregate_train(1, grid.send_and_receive(messages))
    assert metrics is None
    assert found is not None
    assert torch.equal(unpack_adapter(found), after)
    messages = strategy.configure_train(2, found, ConfigRecord(), grid)
    assert strategy.aggregate_train(2, []) == (None, None), "too few replied, and there is no noise"


def test_the_denominator_stays_the_expected_cohort_when_clients_fail(make: Make) -> None:
    """Half of the clients missing: their codes count as zero, they do not raise the weight of the others."""
    steps = []
    for missing in ({4, 5, 6}, {1, 2, 3}, set()):
        strategy, grid = make({"num-server-rounds": 1})
        before = strategy.state.optimizer.adapter
        steps.append(start(strategy, faulty(grid, raising=set(), silent=missing)) - before)
    assert steps[0].norm() > 1e-3
    torch.testing.assert_close(steps[0] + steps[1], steps[2], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("trust", ["central", "distributed", "local"])
@statistical(count_outside(0, 30, 3072, 4e-4), "system")
def test_a_private_round_with_too_few_replies_takes_its_step(make: Make, trust: str) -> None:
    """A step that is not taken can be seen, and would tell who was asked; the round counts as failed all the same."""
    strategy, grid = make({**NOISY, "privacy.trust": trust, "federation.max-failed-rounds": 9})
    before = strategy.state.optimizer.adapter
    after = start(strategy, faulty(grid, raising={1, 2}, silent={3, 4}))
    assert (after != before).double().mean() > 0.99  # integer noise is zero in one value of 2,500
    assert [r.shortage for r in rounds_of(strategy)] == ["2 of 6 clients replied, 3 are needed"] * 3
    assert strategy.account.rounds_charged == 3
    assert (strategy.state.round, strategy.state.failed_in_a_row) == (3, 3)


def test_without_noise_a_round_with_too_few_replies_takes_no_step(make: Make) -> None:
    strategy, grid = make({"federation.max-failed-rounds": 9})
    before = strategy.state.optimizer.adapter
    after = start(strategy, faulty(grid, raising={1, 2}, silent={3, 4}))
    assert torch.equal(after, before)
    assert [r.shortage for r in rounds_of(strategy)] == ["2 of 6 clients replied, 3 are needed"] * 3
    assert strategy.state.round == 3


def test_the_run_recovers_when_the_clients_do(make: Make) -> None:
    strategy, grid = make({**NOISY, "num-server-rounds": 4, "federation.max-failed-rounds": 3})
    before = strategy.state.optimizer.adapter
    after = start(strategy, faulty(grid, raising=set(range(1, 7)), silent=set(), until=2))
    assert [bool(r.shortage) for r in rounds_of(strategy)] == [True, True, False, False]
    assert strategy.state.failed_in_a_row == 0
    assert not torch.equal(after, before)


@pytest.mark.parametrize("noise", [NOISY, {}], ids=["noise", "clear"])
def test_too_many_failed_rounds_in_a_row_end_the_run_with_the_commonest_reason(
    make: Make, noise: dict[str, Any]
) -> None:
    strategy, grid = make({**noise, "num-server-rounds": 9, "federation.max-failed-rounds": 2})
    with pytest.raises(FederationError) as failure:
        start(strategy, faulty(grid, raising={1, 2, 3, 4}, silent={5}))
    said = str(failure.value)
    assert said.startswith("2 rounds in a row had too few replies (last: 1 of 6 clients replied, 3 are needed)")
    assert "MemoryError: node has no memory left (4 of 5 failures)" in said
    assert strategy.account.rounds_charged == len(rounds_of(strategy)) == 2


def test_a_round_that_asked_nobody_ends_no_row_of_failed_ones(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says nothing of clients that never answer: with small cohorts such a run went on to its last round."""
    strategy, grid = make({**NOISY, "num-server-rounds": 9, "federation.max-failed-rounds": 3})
    drawn = itertools.cycle([[1, 2], [], []])
    monkeypatch.setattr(strategy, "draw_cohort", lambda *_: next(drawn))
    with pytest.raises(FederationError, match="3 rounds in a row had too few replies"):
        start(strategy, faulty(grid, raising=set(range(1, 7)), silent=set()))
    assert [bool(r.shortage) for r in rounds_of(strategy)] == [True, False, False, True, False, False, True]


def test_a_statistics_stage_without_any_reply_ends_the_run(make: Make) -> None:
    strategy, grid = make({"strategy.name": "dr-encoder"})
    with pytest.raises(FederationError, match=r"stage 1: none of 6 clients released statistics\. MemoryError"):
        start(strategy, faulty(grid, raising=set(range(1, 7)), silent=set()))


@statistical(count_outside(0, 30, 3072, 4e-4), "system")
def test_an_empty_cohort_still_moves_the_model_by_noise(make: Make) -> None:
    """Else a round without a step would tell that nobody was sampled."""
    strategy, grid = make({**NOISY, "privacy.trust": "distributed", "privacy.sampling-rate": 1e-9})
    before = strategy.state.optimizer.adapter
    after = start(strategy, grid)
    assert [(r.cohort, r.shortage) for r in rounds_of(strategy)] == [(0, "")] * 3
    assert (after != before).double().mean() > 0.99  # integer noise is zero in one value of 2,500


def test_the_run_stops_when_the_budget_is_spent(make: Make) -> None:
    """Of nine charges five are gone, as crashes between a charge and its release leave it."""
    strategy, grid = make({**NOISY, "num-server-rounds": 9})
    lose_charges(strategy, 5)
    start(strategy, grid)
    assert strategy.stop_reason == "privacy budget spent"
    assert len(rounds_of(strategy)) == 4
    assert strategy.account.rounds_charged == strategy.account.plan.rounds == 9
    assert strategy.account.certify() == pytest.approx(strategy.account.plan.epsilon)
    strategy.account.charge_round(99)
    assert strategy.account.certify() > strategy.account.plan.epsilon


def lose_charges(strategy: Any, count: int) -> None:
    for _ in range(count):
        strategy.account.charge_round(1)


def diverging(losses: Mapping[int, float], seen: dict[int, Tensor]) -> Callable[[int, Tensor], MetricRecord]:
    """Held-out losses by round; what was evaluated goes to ``seen``."""

    def evaluate(server_round: int, adapter: Tensor) -> MetricRecord:
        seen[server_round] = adapter
        return MetricRecord({"loss": losses[server_round]})

    return evaluate


@pytest.mark.parametrize("last", [4.1, math.nan])
@pytest.mark.parametrize(("losses", "kept"), [((0.9, 0.8), 2), ((0.7, 0.9), 1), ((0.7, 3.9), 1)])
def test_divergence_stops_the_run_and_keeps_the_best_adapter_so_far(
    make: Make, losses: tuple[float, float], kept: int, last: float
) -> None:
    """Base loss 1, factor 4: the third round's loss is beyond it, whatever was worse than the best is not."""
    seen: dict[int, Tensor] = {}
    strategy, grid = make({"num-server-rounds": 6}, diverging({1: losses[0], 2: losses[1], 3: last}, seen))
    strategy.state.base_loss = 1.0
    after = start(strategy, grid)
    assert strategy.stop_reason.startswith("diverged: held-out loss")
    assert f"the adapter of round {kept}, whose loss {min(losses)} was the lowest, is kept" in strategy.stop_reason
    assert set(seen) == {1, 2, 3}
    assert torch.equal(after, seen[kept])


def test_divergence_without_a_gain_before_keeps_the_base_model(make: Make) -> None:
    """All rounds are worse than the base, though not yet beyond the factor."""
    strategy, grid = make({"num-server-rounds": 6}, diverging({1: 1.1, 2: 3.9, 3: 4.1}, {}))
    strategy.state.base_loss = 1.0
    before = strategy.state.optimizer.adapter
    assert torch.equal(start(strategy, grid), before)
    assert "the adapter of the base model is kept" in strategy.stop_reason


def test_divergence_goes_back_to_an_adapter_that_was_evaluated(make: Make) -> None:
    """Evaluated every second round, so that the adapter one round before was never looked at."""
    seen: dict[int, Tensor] = {}
    changes = {"num-server-rounds": 6, "evaluation.every": 2}
    strategy, grid = make(changes, diverging({2: 0.9, 4: 4.1}, seen))
    strategy.state.base_loss = 1.0
    after = start(strategy, grid)
    assert strategy.state.round == 4
    assert torch.equal(after, seen[2])


@pytest.mark.parametrize(("scored", "validation", "diverges"), [(99.0, 3.9, False), (0.1, 4.1, True)])
def test_validation_examples_decide_on_divergence_and_not_those_that_are_scored(
    make: Make, scored: float, validation: float, diverges: bool
) -> None:
    metrics = MetricRecord({"loss": scored, VALIDATION_LOSS: validation})
    strategy, grid = make({"num-server-rounds": 2}, lambda *_: metrics)
    strategy.state.base_loss = 1.0
    start(strategy, grid)
    assert strategy.stop_reason.startswith("diverged: validation loss 4.1") is diverges
    assert strategy.state.round == (1 if diverges else 2)


def test_an_adapter_that_is_not_finite_is_never_kept(make: Make) -> None:
    strategy, grid = make({"server.learning-rate": 3e38, "privacy.clip-norm": 1e4})
    before = strategy.state.optimizer.adapter
    assert torch.equal(start(strategy, grid), before)
    assert "diverged" in strategy.stop_reason


def test_evaluation_is_on_schedule_and_always_after_the_last_round(make: Make) -> None:
    rounds: list[int] = []
    strategy, grid = make({"num-server-rounds": 5, "evaluation.every": 2}, lambda number, _: rounds.append(number))
    start(strategy, grid)
    assert rounds == [2, 4, 5]


def test_the_last_round_that_the_budget_affords_is_evaluated(make: Make) -> None:
    rounds: list[int] = []
    changes = {**NOISY, "num-server-rounds": 9, "evaluation.every": 100}
    strategy, grid = make(changes, lambda number, _: rounds.append(number))
    lose_charges(strategy, 5)
    start(strategy, grid)
    assert rounds == [4]
