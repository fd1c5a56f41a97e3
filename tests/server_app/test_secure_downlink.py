"""Under secure aggregation the noisy sum is as public as elsewhere, so it is the way down there as well."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Message

from client_app import holdings
from common.model.adapted import AdaptedModel
from common.wire.records import ADAPTER, ASSIGNMENT, LACKS, SUMS, TRAIN, round_of
from common.wire.secure import REPAIR
from server_app.strategies.base import FederatedAdapter
from tests.support.downlink import ROUNDS, Watch, of_round, sent
from tests.support.secure_runs import SECURE, LegGrid
from tests.support.strategy_runs import rounds_of
from tests.support.tiny import CLIENTS, Files, start, tiny_config, tiny_grid, tiny_strategy

Make = Callable[..., tuple[FederatedAdapter, LegGrid]]


@pytest.fixture
def make(files: Files, tmp_path: Path, adapted: AdaptedModel) -> Make:
    def made(changes: dict[str, Any]) -> tuple[FederatedAdapter, LegGrid]:
        config = tiny_config(files, tmp_path, SECURE | {"num-server-rounds": ROUNDS} | changes)
        return tiny_strategy(config, adapted, tmp_path), tiny_grid(config, LegGrid)

    return made


def before(grid: LegGrid, number: int, do: Callable[[], None]) -> None:
    """Do something when a round's first instruction leaves."""
    original, done = grid.push_messages, list[bool]()

    def push(messages: Iterable[Message]) -> list[str]:
        asked = list(messages)
        if not done and any(m.metadata.message_type == TRAIN and round_of(m) == number for m in asked):
            done.append(True)
            do()
        return original(asked)

    grid.push_messages = push  # type: ignore[method-assign]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("name", ["dr-encoder", "random-projection"])
def test_masked_sums_give_every_client_the_servers_adapter(make: Make, watch: Watch, name: str, optimizer: str) -> None:
    """One client misses two rounds, which a second leg repairs, and catches up; nobody is sent an adapter."""
    strategy, grid = make({"strategy.name": name, "server.optimizer": optimizer, "codec.refresh-every": 2})
    before(grid, 3, lambda: grid.missing.update({TRAIN: frozenset({2})}))
    before(grid, 5, grid.missing.clear)
    start(watch.follow(strategy), grid)
    watch.check()
    assert not sent(grid, ADAPTER)
    assert len(of_round(sent(grid, ASSIGNMENT), 1)) == len(sent(grid, ASSIGNMENT)) == CLIENTS
    assert REPAIR in grid.kinds
    assert [entry.round for entry in strategy.state.sums] == list(range(1, ROUNDS + 1))
    assert {m.metadata.dst_node_id for m in sent(grid, SUMS) if round_of(m) == 6} == {1, 2, 3, 4, 5, 6}


def test_a_masked_client_that_has_lost_what_it_kept_is_asked_again_and_counts(make: Make, watch: Watch) -> None:
    """It says so before it enters the exchange, so that its second answer is its first there."""
    strategy, grid = make({})
    before(grid, 4, lambda: grid.context(3).state.pop(holdings.RECORD))
    start(watch.follow(strategy), grid)
    watch.check()
    assert [m.metadata.src_node_id for m in grid.answered if not m.has_error() and LACKS in m.content] == [3]
    assert of_round(sent(grid, ASSIGNMENT), 4) == [3]
    assert [(row.replies, row.failures) for row in rounds_of(strategy)] == [(CLIENTS, 0)] * ROUNDS
    assert REPAIR not in grid.kinds


def test_a_lost_round_leaves_no_sum(make: Make, watch: Watch) -> None:
    strategy, grid = make({"federation.max-failed-rounds": 9})
    before(grid, 2, lambda: grid.missing.update({TRAIN: frozenset({1, 2, 3})}))
    before(grid, 4, grid.missing.clear)
    start(watch.follow(strategy), grid)
    watch.check()
    assert [entry.round for entry in strategy.state.sums] == [1, 4, 5, 6]
    assert not [m for m in grid.answered if not m.has_error() and LACKS in m.content]


def test_a_session_that_knows_of_nobody_sends_all_sums(make: Make, watch: Watch) -> None:
    """As after a resume: the server has its checkpoint and no word of what clients keep."""
    strategy, grid = make({})

    def forget() -> None:
        strategy.downlink.forget(strategy.nodes)

    strategy.hooks = type(strategy.hooks)(
        strategy.hooks.evaluate, strategy.hooks.on_prepared,
        lambda state, *_: forget() if state.round == 3 else None,
    )  # fmt: skip
    start(watch.follow(strategy), grid)
    watch.check()
    assert of_round(sent(grid, ASSIGNMENT), 4) == [1, 2, 3, 4, 5, 6]
    assert not sent(grid, ADAPTER)
    assert not torch.equal(strategy.state.optimizer.adapter, strategy.adapted.initial)
