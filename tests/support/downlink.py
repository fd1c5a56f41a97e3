"""What clients make of what they are sent, beside the server's adapter, and who was sent what."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from flwr.app import Message
from torch import Tensor

from client_app import answer as answer_module
from client_app import start as start_module
from common.wire.records import TASK, TRAIN, round_of
from server_app.strategies.base import FederatedAdapter
from tests.support.grids import TinyGrid

ROUNDS = 6


class Watch:
    """Notes the adapter that each client trains from, beside the server's of that moment."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pairs: list[tuple[int, Tensor, Tensor]] = []
        self.server: Callable[[], Tensor] = lambda: torch.zeros(0)
        original = answer_module.started

        def started(instruction: Any, *rest: Any) -> Any:
            found = original(instruction, *rest)
            if found is not None and instruction.task.round:
                self.pairs.append((instruction.task.round, found.adapter, self.server()))
            return found

        monkeypatch.setattr(answer_module, "started", started)
        monkeypatch.setattr(start_module, "_last", [])

    def follow(self, strategy: FederatedAdapter) -> FederatedAdapter:
        self.server = lambda: strategy.state.optimizer.adapter
        return strategy

    def check(self) -> None:
        assert {number for number, _, _ in self.pairs} == set(range(1, ROUNDS + 1))
        for number, client, server in self.pairs:
            assert torch.equal(client, server), number
        assert not torch.equal(self.pairs[0][1], self.pairs[-1][1])


def sent(grid: TinyGrid, field: str, kind: str = TRAIN) -> list[Message]:
    """The instructions that hold a field."""
    return [m for m in grid.sent if m.metadata.message_type == kind and field in m.content.config_records[TASK]]


def of_round(messages: list[Message], number: int) -> list[int]:
    return sorted(m.metadata.dst_node_id for m in messages if round_of(m) == number)
