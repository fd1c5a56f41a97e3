"""Strategies of tiny runs: how tests make them, break their clients and choose their cohorts."""

from collections.abc import Callable
from typing import Any

from flwr.app import Error, Message

from server_app.in_process import InProcessGrid
from server_app.strategies.base import FederatedAdapter

Make = Callable[..., tuple[FederatedAdapter, InProcessGrid]]


def rounds_of(strategy: FederatedAdapter) -> list[Any]:
    found: list[Any] = strategy.rounds  # type: ignore[attr-defined]
    return found


class Faulty(InProcessGrid):
    """Some nodes raise, some never answer; ``until`` is the last round in which they do so."""

    raising: set[int]
    silent: set[int]
    until: int

    def answer(self, message: Message) -> Message | None:
        node = message.metadata.dst_node_id
        broken = int(message.metadata.group_id) <= self.until
        if broken and node in self.silent:
            return None
        reply = super().answer(message)
        error: Any = Error(0, "MemoryError: node has no memory left")
        return Message(error, reply_to=message) if broken and node in self.raising else reply


def faulty(grid: InProcessGrid, raising: set[int], silent: set[int], until: int = 99) -> InProcessGrid:
    grid.__class__ = Faulty
    grid.raising, grid.silent, grid.until = raising, silent, until  # type: ignore[attr-defined]
    return grid


NOISY: dict[str, Any] = {
    "privacy.epsilon": 0.0,
    "privacy.noise-multiplier": 2.0,
    "privacy.trust": "local",
    "federation.min-reply-rate": 0.5,
}
