"""The grid of the tests: it keeps every message, and single nodes may fail."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from flwr.app import Error, Message
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.proto.node_pb2 import NodeInfo
from flwr.superlink.grid import HttpGrid

from workbench.simulation.in_process import InProcessGrid


class TinyGrid(InProcessGrid):
    """Keeps what was sent and what was answered; nodes that are told to raise or never answer ``until`` a round."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.sent: list[Message] = []
        self.answered: list[Message] = []
        self.raising: frozenset[int] = frozenset()
        self.silent: frozenset[int] = frozenset()
        self.until = 0

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        asked = list(messages)
        self.sent += asked
        return super().push_messages(asked)

    def answer(self, message: Message) -> Message | None:
        reply = self._reply(message)
        self.answered += [reply] if reply is not None else []
        return reply

    def _reply(self, message: Message) -> Message | None:
        node = message.metadata.dst_node_id
        broken = abs(int(message.metadata.group_id or 0)) <= self.until
        if broken and node in self.silent:
            return None
        reply = super().answer(message)
        error: Any = Error(0, "MemoryError: node has no memory left")
        return Message(error, reply_to=message) if broken and node in self.raising else reply


def faulty(grid: TinyGrid, raising: Iterable[int], silent: Iterable[int], until: int = 99) -> TinyGrid:
    """The same grid, on which some nodes raise and some never answer up to the round ``until``."""
    grid.raising, grid.silent, grid.until = frozenset(raising), frozenset(silent), until
    return grid


class FailingGrid(TinyGrid):
    """Nodes that answer one kind of message by an error only."""

    failing: Mapping[str, set[int]] = {}

    def _reply(self, message: Message) -> Message | None:
        fails = message.metadata.dst_node_id in self.failing.get(message.metadata.message_type, ())
        error: Any = Error(0, "OSError: its disk is full")
        return Message(error, reply_to=message) if fails else super()._reply(message)


class DeployedGrid(TinyGrid, HttpGrid):
    """A grid of the kind that Flower's deployment engine has."""


class NamedGrid(TinyGrid):
    """Nodes with registered names, some of them away: the SuperLink answers for these, as Flower's does."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.away: frozenset[int] = frozenset()
        self.looked: Callable[[], None] = lambda: None

    def get_nodes(self) -> Iterable[NodeInfo]:
        return [NodeInfo(node_id=node, name=f"site-{node}") for node in self.get_node_ids()]

    def get_node_ids(self) -> list[int]:
        self.looked()
        return [node for node in super().get_node_ids() if node not in self.away]

    def answer(self, message: Message) -> Message | None:
        reply = super().answer(message)
        if message.metadata.dst_node_id not in self.away or reply is None:
            return reply
        lost: Any = Message(Error(3, "Node Unavailable"), reply_to=message)
        lost.metadata.__dict__["_src_node_id"] = SUPERLINK_NODE_ID
        return lost  # type: ignore[no-any-return]
