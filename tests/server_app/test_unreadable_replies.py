"""Replies that Flower's own parser chokes on, through the grid that a deployed ServerApp has."""

from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.common.serde import message_to_proto
from flwr.proto.recorddict_pb2 import ConfigRecord as ConfigRecordProto
from flwr.proto.recorddict_pb2 import ConfigRecordValue
from flwr.supercore.inflatable.inflatable_object import (
    add_header_to_object_body,
    get_all_nested_objects,
    get_object_tree,
)
from flwr.superlink.grid.http_grid import HttpGrid

from common.privacy.mechanism import ReleaseTerms
from common.wire.records import TRAIN, pack_release
from server_app.log import read_events, recording
from server_app.rounds.cohort import Instruction, exchange
from workbench.simulation.in_process import InProcessGrid

TERMS = ReleaseTerms(8, 1.0, 1.0, "local", 4, normalize=True)


class Nothing(ConfigRecord):
    """A record whose one value is of no type at all, as no SuperNode sends it."""

    def deflate(self) -> bytes:
        items = [ConfigRecordProto.Item(key="dtype", value=ConfigRecordValue())]
        return add_header_to_object_body(ConfigRecordProto(items=items).SerializeToString(), self)


Nothing.__qualname__ = ConfigRecord.__qualname__  # the name in its header


class SuperLink:
    """What ``HttpGrid`` asks: hands out each message once; of one that it handed out already it has but an error."""

    def __init__(self) -> None:
        self.asked: dict[str, Message] = {}
        self.ready: dict[str, Message] = {}
        self.objects: dict[str, bytes] = {}

    def PushMessages(self, request: Any) -> Any:
        return SimpleNamespace(
            message_ids=[proto.metadata.message_id for proto in request.messages_list],
            objects_to_push=[],
            session_id="",
        )

    def PullMessages(self, request: Any) -> Any:
        given = [self.ready.pop(name, None) or self._gone(name) for name in sorted(request.message_ids)]
        for message in given:
            self.objects |= {name: held.deflate() for name, held in get_all_nested_objects(message).items()}
        return SimpleNamespace(
            messages_list=[message_to_proto(message) for message in given],
            message_object_trees=[get_object_tree(message) for message in given],
        )

    def PushObject(self, _: Any) -> None:
        """Every object is there already."""

    def PullObject(self, request: Any) -> Any:
        content = self.objects[request.object_id]
        return SimpleNamespace(object_found=True, object_available=True, object_content=content)

    def ConfirmMessageReceived(self, _: Any) -> None:
        """Nothing to delete."""

    def _gone(self, name: str) -> Message:
        return _named(Message(Error(7, "Message Unavailable"), reply_to=self.asked[name]))


def _named(message: Message) -> Message:
    message.metadata.__dict__["_message_id"] = message.object_id
    return message


def grid_of(answers: dict[int, RecordDict]) -> tuple[HttpGrid, Instruction]:
    """A deployed ServerApp's grid, and a question to the nodes that will answer so."""
    InProcessGrid(None, {}, 0)  # type: ignore[arg-type]  # registers this process as a task, as messages need
    superlink, grid = SuperLink(), HttpGrid(token="token")  # noqa: S106
    grid._client = superlink  # type: ignore[assignment]
    grid._run = SimpleNamespace(run_id=1)  # type: ignore[assignment]
    question = Instruction(3, TERMS, sorted(answers))
    for message in question.address(lambda _: RecordDict(), TRAIN, 60.0):
        _named(message)
        superlink.asked[message.metadata.message_id] = message
        reply = Message(answers[message.metadata.dst_node_id], reply_to=message)
        superlink.ready[message.metadata.message_id] = _named(reply)
    return grid, question


def honest() -> RecordDict:
    return pack_release(np.ones(8, TERMS.dtype), 3, TERMS)


def test_honest_replies_come_through_this_grid(tmp_path: Path) -> None:
    grid, question = grid_of({11: honest(), 12: honest()})
    with recording(tmp_path / "events.jsonl", 1):
        found = question.sort(exchange(grid, question.messages, 5.0, 0))
    assert set(found.releases) == {11, 12}
    assert read_events(tmp_path / "events.jsonl") == []


def test_a_reply_that_flower_cannot_read_costs_replies_and_not_the_run(tmp_path: Path) -> None:
    spoiled = RecordDict({"release": Nothing({"schema": 1})})
    grid, question = grid_of({11: honest(), 12: spoiled})
    with pytest.raises(AttributeError):
        list(grid.pull_messages({message.metadata.message_id for message in question.messages}))

    grid, question = grid_of({11: honest(), 12: spoiled, 13: honest()})
    with recording(tmp_path / "events.jsonl", 1):
        replies = exchange(grid, question.messages, 5.0, in_flight=1)
        found = question.sort(replies)
    assert set(found.releases) == {11, 13}, "those that were fetched by themselves"
    assert set(found.failures) == {12}
    told = read_events(tmp_path / "events.jsonl")
    assert [event["event"] for event in told] == ["replies_unreadable", "node_failed"]
    assert told[0]["error"] == "AttributeError"


def test_those_fetched_with_an_unreadable_reply_are_waited_for_no_longer(tmp_path: Path) -> None:
    grid, question = grid_of({11: honest(), 12: RecordDict({"release": Nothing({"schema": 1})})})
    found = question.sort(exchange(grid, question.messages, 600.0, 0))
    assert set(found.failures) == {11, 12}


def test_a_lost_connection_is_not_taken_for_a_reply() -> None:
    grid, question = grid_of({11: honest()})

    def lost(_: Iterable[str]) -> Any:
        raise ConnectionError("gone")

    grid.pull_messages = lost  # type: ignore[method-assign]
    with pytest.raises(ConnectionError):
        exchange(grid, question.messages, 5.0, 0)
