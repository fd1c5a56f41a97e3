"""Code on the way down: what a client makes of the sums is the server's adapter, whatever it has missed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, Message
from torch import Tensor

from client_app import holdings
from client_app import start as start_module
from client_app.holdings import RECORD
from common.optimizer import snapshot_size
from common.wire.records import ADAPTER, ASSIGNMENT, LACKS, PROXY, SUMS, TASK, TRAIN, round_of, serialized_bytes
from server_app.strategies import STRATEGIES
from tests.support.downlink import ROUNDS, Watch, of_round, sent
from tests.support.grids import faulty
from tests.support.strategy_runs import NOISY, Make, rounds_of
from tests.support.tiny import CLIENTS, ledger_in, start


def own_data(folder: Path) -> dict[str, Any]:
    """What makes a node a site; it has no rows, and answers nothing."""
    kept = {"ledger-path": ledger_in(folder), "max-epsilon": 0.0}
    return {"data-path": str(folder / "none.jsonl"), "allow-raw-gradients": True, **kept}


SEEDED = ("dr-encoder", "random-projection")


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("noise", [{}, NOISY], ids=["exact", "noisy"])
@pytest.mark.parametrize("name", SEEDED)
def test_clients_rebuild_the_adapter_to_the_bit_and_are_sent_none(
    make: Make, draw: Callable[..., None], watch: Watch, name: str, optimizer: str, noise: dict[str, Any]
) -> None:
    """Cohorts of all sizes, so most clients miss rounds; the codec is redrawn every second round."""
    draw(3, 6, 1, 3, 0, 2, 6)  # stage 1 first
    changes = {"privacy.sampling-rate": 0.9, "stage-one.sampling-rate": 0.9, "codec.refresh-every": 2}
    asked = {"strategy.name": name, "server.optimizer": optimizer, "num-server-rounds": ROUNDS}
    strategy, grid = make({**noise, **changes, **asked})
    start(watch.follow(strategy), grid)
    watch.pairs += [(4, torch.zeros(1), torch.zeros(1))]  # nobody was asked in it
    watch.check()
    assert not sent(grid, ADAPTER)
    assert len(sent(grid, ASSIGNMENT)) == CLIENTS, "once a client"
    assert all(not row.failures for row in rounds_of(strategy))


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_sends_what_does_not_change_once_and_stage_one_no_adapter(make: Make, name: str) -> None:
    strategy, grid = make({"strategy.name": name, "num-server-rounds": 3})
    start(strategy, grid)
    first_stage = [m for m in grid.sent if m.metadata.message_type != TRAIN]
    assert all(set(m.content.config_records[TASK]) == {"head", ASSIGNMENT, SUMS} for m in first_stage)
    whole = {number: of_round(sent(grid, ASSIGNMENT), number) for number in (1, 2, 3)}
    everybody = list(range(1, CLIENTS + 1))
    assert whole == {n: everybody if n == 1 else [] for n in (1, 2, 3)}
    how = SUMS if name in SEEDED else PROXY if name == "fedlpp" else ADAPTER
    assert len(sent(grid, how)) == 3 * CLIENTS
    assert not [m for m in grid.answered if LACKS in m.content]


def test_a_run_that_controls_what_is_learnt_sends_adapters(make: Make) -> None:
    strategy, grid = make({"strategy.name": "random-projection"})
    strategy.control = "codes-zeroed"
    start(strategy, grid)
    assert not sent(grid, SUMS)


@pytest.mark.parametrize("name", SEEDED)
def test_a_client_that_has_lost_what_it_kept_is_asked_again_with_everything(
    make: Make, watch: Watch, name: str
) -> None:
    """Its state is emptied before round 4, as by a new SuperNode: nothing is charged for saying so."""
    strategy, grid = make({**NOISY, "strategy.name": name, "num-server-rounds": ROUNDS})
    original = grid.push_messages

    def push(messages: Any) -> list[str]:
        asked = list(messages)
        if asked and round_of(asked[0]) == 4 and not seen:
            seen.append(True)
            for node in (2, 5):
                grid.context(node).state.clear()
        return original(asked)

    seen: list[bool] = []
    grid.push_messages = push  # type: ignore[method-assign]
    start(watch.follow(strategy), grid)
    watch.check()
    lacking = [m for m in grid.answered if not m.has_error() and LACKS in m.content]
    assert sorted(m.metadata.src_node_id for m in lacking) == [2, 5]
    assert of_round(sent(grid, ASSIGNMENT), 4) == [2, 5]
    row = rounds_of(strategy)[3]
    assert (row.replies, row.failures) == (CLIENTS, 0)
    of_four = [m for m in grid.sent if round_of(m) == 4]
    assert len(of_four) == CLIENTS + 2
    assert row.bytes_down == sum(serialized_bytes(m.content) for m in of_four)
    answers = [m for m in grid.answered if round_of(m) == 4]
    assert row.bytes_up == sum(serialized_bytes(m.content) for m in answers)
    assert (row.asked, row.answered) == (CLIENTS + 2, CLIENTS + 2)


@pytest.mark.parametrize("spoiled", ["a sum that it kept", "an adapter that it built"])
def test_a_client_whose_sums_give_another_adapter_does_not_train_from_it(
    make: Make, watch: Watch, monkeypatch: pytest.MonkeyPatch, spoiled: str
) -> None:
    strategy, grid = make({"strategy.name": "random-projection", "num-server-rounds": ROUNDS})
    original = grid.answer

    def answer(message: Message) -> Message | None:
        if round_of(message) == 4 and message.metadata.dst_node_id == 3 and not seen:
            seen.append(True)
            if spoiled == "a sum that it kept":
                held = dict(grid.context(3).state.config_records[RECORD])
                data = bytearray(held["sums"])  # type: ignore[arg-type]
                data[-1] ^= 1
                grid.context(3).state.pop(RECORD)
                grid.context(3).state[RECORD] = ConfigRecord({**held, "sums": bytes(data)})
            else:
                start_module._last[0].optimizer._adapter += 1e-6
        return original(message)

    seen: list[bool] = []
    grid.answer = answer  # type: ignore[method-assign]
    start(watch.follow(strategy), grid)
    watch.check()
    assert [m.metadata.src_node_id for m in grid.answered if LACKS in m.content] == [3]
    assert [row.failures for row in rounds_of(strategy)] == [0] * ROUNDS


def test_a_machine_that_rounds_otherwise_is_sent_the_adapter(
    make: Make, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it makes of the sums is wrong, in every round."""
    original = start_module._rebuilt

    def rebuilt(*rest: Any) -> Tensor:
        return original(*rest) * (1 + 1e-6)

    monkeypatch.setattr(start_module, "_rebuilt", rebuilt)
    strategy, grid = make({"strategy.name": "random-projection", "num-server-rounds": ROUNDS})
    start(watch.follow(strategy), grid)
    watch.check()
    assert [row.failures for row in rounds_of(strategy)] == [0] * ROUNDS
    assert len(sent(grid, ADAPTER)) == ROUNDS * CLIENTS


def test_failed_rounds_leave_no_sum_and_silent_clients_catch_up(make: Make, watch: Watch) -> None:
    changes = {"num-server-rounds": ROUNDS, "federation.max-failed-rounds": 9, "federation.min-reply-rate": 0.9}
    strategy, grid = make({"strategy.name": "random-projection", **changes})
    faulty(grid, raising={2}, silent={3}, until=2)
    start(watch.follow(strategy), grid)
    watch.check()
    assert [entry.round for entry in strategy.state.sums] == [3, 4, 5, 6]
    assert not [m for m in grid.answered if not m.has_error() and LACKS in m.content]


@pytest.mark.parametrize(("optimizer", "size"), [("sgd", 1024), ("momentum", 2048), ("adam", 3072)])
@pytest.mark.parametrize("kept", ["in its state", "by the process", "nowhere"])
def test_where_the_sums_outgrow_the_adapter_it_is_sent_and_then_sums_again(
    make: Make, watch: Watch, monkeypatch: pytest.MonkeyPatch, optimizer: str, size: int, kept: str
) -> None:
    """Large codes, without noise: three sums are larger than the adapter with what its optimizer remembers.

    Client 1 forgets all before round 4, and is then asked in every round: each time it lacks one sum.
    """
    monkeypatch.setattr(holdings, "_shared", {})
    monkeypatch.setattr(holdings, "_LARGE", 1 << 16 if kept == "in its state" else 1000)
    changes = {"server.optimizer": optimizer, "codec.size": size, "num-server-rounds": ROUNDS}
    strategy, grid = make({"strategy.name": "random-projection", **changes})
    original = grid.push_messages

    def push(messages: Any) -> list[str]:
        asked = list(messages)
        if round_of(asked[0]) == 4 and not seen:
            seen.append(True)
            grid.context(1).state.clear()
        if kept == "nowhere":
            holdings._shared.clear()
        return original(asked)

    seen: list[bool] = []
    grid.push_messages = push  # type: ignore[method-assign]
    start(watch.follow(strategy), grid)
    watch.check()
    again = {"nowhere": [4, 5, 6]}.get(kept, [4])
    assert [(m.metadata.dst_node_id, round_of(m)) for m in sent(grid, ADAPTER)] == [(1, n) for n in again]
    lacking = [m for m in grid.answered if LACKS in m.content]
    assert len(lacking) == len(again)
    of_last = [m for m in sent(grid, SUMS) if m.metadata.dst_node_id == 1 and round_of(m) == 6]
    assert len(of_last) == 1
    assert serialized_bytes(of_last[0].content) < 4 * size + 200


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_what_a_site_keeps_is_no_more_than_the_adapter_with_its_averages(
    make: Make, watch: Watch, tmp_path: Path, optimizer: str
) -> None:
    """It lacks one sum each time; those of three rounds would be more than that."""
    size = {"sgd": 1024, "momentum": 2048, "adam": 3072}[optimizer]
    changes = {"server.optimizer": optimizer, "codec.size": size, "num-server-rounds": ROUNDS}
    strategy, grid = make({"strategy.name": "random-projection", **changes})
    grid.context(2).node_config |= own_data(tmp_path)
    start(watch.follow(strategy), grid)
    watch.check()
    assert not sent(grid, ADAPTER)
    assert not [m for m in grid.answered if LACKS in m.content]
    most = 4 * snapshot_size(optimizer, strategy.layout.size)
    held: Any = grid.context(2).state.config_records[RECORD]
    assert len(held["sums"]) + len(held["snapshot"]) <= 2 * most + 4 * size
    assert held["since"] == 3


def test_a_large_assignment_of_simulated_clients_is_kept_once_and_of_a_site_in_its_state(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(holdings, "_shared", {})
    monkeypatch.setattr(holdings, "_LARGE", 1000)
    strategy, grid = make({"strategy.name": "fedcg", "num-server-rounds": 2})
    grid.context(2).node_config |= own_data(tmp_path)
    start(strategy, grid)
    kept = {node: grid.context(node).state.config_records[RECORD] for node in (1, 2)}
    assert "assignment" not in kept[1]
    assert isinstance(kept[2]["assignment"], bytes)
    assert holdings._shared[kept[1]["name"]] == kept[2]["assignment"]  # type: ignore[index]


def test_after_a_divergence_no_sum_is_sent(make: Make) -> None:
    """The adapter was put back: it follows from no sums any more."""
    strategy, grid = make(
        {"strategy.name": "random-projection", "server.learning-rate": 3e38, "privacy.clip-norm": 1e4}
    )
    start(strategy, grid)
    assert "diverged" in strategy.stop_reason
    assert strategy.state.diverged == strategy.stop_reason
    assert strategy.parcel(9, strategy.state.optimizer.adapter).entries is None
