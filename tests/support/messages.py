"""Flower messages outside a grid."""

import json
import struct
import zlib
from collections.abc import Callable
from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from common.wire.assignment import digest_of
from common.wire.records import ASSIGNMENT, HEAD, TASK, Instruction, sent_assignment, unpack_instruction

SERVER, NODE, RUN = 1, 11, 7


def instruction(content: RecordDict, kind: str = "train", ttl: float = 60.0, run: int = RUN) -> Message:
    """A server's message as a SuperNode hands it to a ClientApp."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, run, SERVER
    message = Message(content=content, dst_node_id=NODE, message_type=kind, ttl=ttl, group_id="1")
    message.metadata.__dict__["_message_id"] = "asked"
    return message


class Reader:
    """Reads instructions as a client that forgets nothing: what is sent once is known ever after."""

    def __init__(self) -> None:
        self._known: dict[bytes, bytes] = {}

    def __call__(self, content: RecordDict) -> Instruction:
        sent = sent_assignment(content)
        if sent is not None:
            self._known[digest_of(sent)] = sent
        return unpack_instruction(content, self._known.get)


def rewritten(content: RecordDict, change: Callable[[dict[str, Any]], object]) -> RecordDict:
    """The same instruction with another header in its assignment, past every check of the sender, under its name."""
    held: Any = dict(content.config_records[TASK])
    data = held[ASSIGNMENT]
    (length,) = struct.unpack("<I", data[:4])
    header = json.loads(zlib.decompress(data[4 : 4 + length]))
    change(header)
    packed = zlib.compress(json.dumps(header).encode())
    held[ASSIGNMENT] = struct.pack("<I", len(packed)) + packed + data[4 + length :]
    held[HEAD] = held[HEAD][:-8] + digest_of(held[ASSIGNMENT])
    return RecordDict({TASK: ConfigRecord(held)})
