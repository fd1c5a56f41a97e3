"""What travels between server and clients, and nothing else: records, schema version, checks, byte counts.

An instruction (train, statistics, gradients) is one record: a head (round, whether the client is in the cohort, the
name of the assignment), the assignment itself where the client lacks it, under secure aggregation what the answer is
masked under (``common.wire.secure``), and where training starts: the adapter, its quantized proxy, or the sums that the
client lacks of those that the adapter is made of. A reply is one record: a head
and the released code, packed. No loss and no example count leaves a client: each would be a release outside the
mechanism. A client that lacks what an instruction leaves out says so, and nothing else. Flower itself adds one thing,
how long the client's process ran: see ``answer-seconds`` in docs/privacy.md.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.serde import recorddict_to_proto
from torch import Tensor

from common.adapter import Layout
from common.codecs.base import EncoderSpec
from common.privacy.mechanism import ReleaseTerms, WireArray
from common.proxy import QuantizedAdapter
from common.wire import bits
from common.wire.assignment import DIGEST_BYTES, MOST_STEPS, Task, digest_of, pack_assignment, unpack_assignment
from common.wire.sums import MOST_SUMS, Entry, joined, split_sums

SCHEMA = 3
NOTHING = -1
STATISTICS, GRADIENTS = "query.statistics", "query.gradients"
TRAIN, EVALUATE = "train", "evaluate"
TASK, RELEASE, LACKS = "task", "release", "lacks"
_HEAD = struct.Struct(f"<BI{DIGEST_BYTES}s")  # schema, round, name of the assignment
_ANSWER = struct.Struct("<BIi")  # schema, round, last round whose sum the client keeps
_START = struct.Struct(f"<I{DIGEST_BYTES}s")  # the round before the first sum, digest of the adapter
_PROXY = struct.Struct("<BQ")  # bits, size
HEAD, ASSIGNMENT, MASK, CODE = "head", "asks", "mask", "code"
ADAPTER, PROXY, SUMS = "adapter", "proxy", "sums"


class WireError(ValueError):
    """A message is not what the protocol allows; the text names the record, what it holds and what was expected."""


class LacksAssignment(WireError):
    """An instruction names an assignment that is not at hand."""


@dataclass(frozen=True)
class Sums:
    """An adapter as the sums that it is made of, less those of rounds up to ``base``, which the client has.

    ``digest``: of the adapter that comes out (``adapter_digest``).
    """

    base: int
    entries: tuple[Entry, ...]
    digest: bytes


Start = Tensor | QuantizedAdapter | Sums
"""Where training starts: the adapter (float32, shape ``[n]``), its proxy, or what it follows from."""


class Head(NamedTuple):
    """What every instruction says in the clear; ``assignment`` is a name."""

    round: int
    assignment: bytes


class Instruction(NamedTuple):
    """An instruction as a client reads it."""

    start: Start
    encoder: EncoderSpec
    task: Task


def pack_instruction(start: Start, encoder: EncoderSpec, task: Task, *, known: bool = False) -> RecordDict:
    """An instruction; ``known``: to a client that holds the assignment, which is then named only."""
    return pack_assigned(start, pack_assignment(encoder, task), task, known=known)


def pack_assigned(start: Start, assignment: bytes, task: Task, *, known: bool = False) -> RecordDict:
    """An instruction whose assignment is packed already."""
    name, data = _pack_start(start)
    held: dict[str, Any] = {HEAD: _HEAD.pack(SCHEMA, task.round, digest_of(assignment)), name: data}
    if not known:
        held[ASSIGNMENT] = assignment
    return RecordDict({TASK: ConfigRecord(held)})


def group_of(server_round: int, *, cover: bool) -> str:
    """The group that a message belongs to: its round, and by the sign whether it is cover, as long either way.

    It stands here and not in the content because Flower gives any registered node a record by its name, a hash of it,
    until the last who was sent it has it: a client outside the cohort would find out that there is a member. So what
    everybody is sent is one content; a message has a name that no other client can tell.
    """
    return f"{'-' if cover else '+'}{server_round}"


def is_cover(message: Message) -> bool:
    """Whether an instruction asks for an answer that counts for nothing."""
    return message.metadata.group_id.startswith("-")


def round_of(message: Message) -> int:
    """The round of a message's group."""
    return abs(int(message.metadata.group_id))


def read_head(content: RecordDict) -> Head:
    """The head of an instruction."""
    number, assignment = _read(_HEAD, content, TASK)
    if number > MOST_STEPS:
        raise WireError(f"instruction is malformed: round = {number}")
    return Head(number, assignment)


def sent_assignment(content: RecordDict) -> bytes | None:
    """The assignment in an instruction; ``None`` where it is only named."""
    held = _held(content, TASK).get(ASSIGNMENT)
    if held is None:
        return None
    if not isinstance(held, bytes) or digest_of(held) != read_head(content).assignment:
        raise WireError("instruction is malformed: its assignment is not the one that it names")
    return held


def unpack_instruction(
    content: RecordDict, held: Callable[[bytes], bytes | None] = lambda _: None, *, sampled: bool = True
) -> Instruction:
    """The inverse of ``pack_instruction``; anything malformed raises ``WireError``.

    ``held``: gives the assignment of a name, if it is at hand; ``LacksAssignment`` where it is needed and is not.
    ``sampled``: whether its message is none of cover (``is_cover``).
    """
    head, assignment = read_head(content), sent_assignment(content)
    if assignment is None:
        assignment = held(head.assignment)
    if assignment is None:
        raise LacksAssignment(f"no assignment {head.assignment.hex()} is at hand")
    start = _unpack_start(_held(content, TASK))
    try:
        encoder, task = unpack_assignment(assignment, head.round, sampled=sampled)
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise WireError(f"instruction is malformed: {error!r}") from error
    return Instruction(start, encoder, task)


def received_adapter(sent: Tensor | QuantizedAdapter, layout: Layout) -> Tensor:
    """The adapter to start from (shape ``[n]``): as it was sent, or dequantized; of another size: ``WireError``."""
    if isinstance(sent, QuantizedAdapter):
        try:
            return sent.dequantize(layout)
        except ValueError as error:
            raise WireError(str(error)) from error
    if len(sent) != layout.size:
        raise WireError(f"adapter has {len(sent)} values, expected {layout.size}")
    return sent


def pack_release(values: WireArray, round_index: int, terms: ReleaseTerms, keeps: int = NOTHING) -> RecordDict:
    """A reply: one released vector, packed, and the round it was made for.

    ``keeps``: the last round whose sum the client holds with the assignment, 0 for none, ``NOTHING`` for nothing at
    all. It is a function of what the client was asked, never of its data.
    """
    return _reply(RELEASE, {HEAD: _ANSWER.pack(SCHEMA, round_index, keeps), CODE: _pack_code(values, terms)})


def release_bytes(terms: ReleaseTerms) -> int:
    """Serialized bytes of a reply."""
    zeros = np.zeros(terms.size, dtype=terms.dtype)
    return serialized_bytes(pack_release(zeros, 0, terms))


def kept_by(content: RecordDict) -> int:
    """What the sender of a reply keeps (``pack_release``)."""
    return int(_read(_ANSWER, content, RELEASE)[1])


def unpack_release(content: RecordDict, round_index: int, terms: ReleaseTerms) -> WireArray:
    """The released vector of a reply; one of another round, size, type or range raises ``WireError``."""
    number, _ = _read(_ANSWER, content, RELEASE)
    release = _held(content, RELEASE)
    surplus = (content.keys() - {RELEASE}) | (release.keys() - {HEAD, CODE})
    if surplus:
        raise WireError(f"reply holds more than a release: {', '.join(sorted(surplus))}")
    if number != round_index:
        raise WireError(f"reply belongs to round {number}, expected {round_index}")
    return _read_code(release.get(CODE), terms)


def pack_lack(round_index: int) -> RecordDict:
    """A reply that holds no release: the client lacks what the instruction left out."""
    return _reply(LACKS, {HEAD: _ANSWER.pack(SCHEMA, round_index, NOTHING)})


def is_lack(reply: Message, round_index: int) -> bool:
    """Whether a reply says that its sender lacks what an instruction of a round left out."""
    if reply.has_error() or set(reply.content) != {LACKS}:
        return False
    record = reply.content[LACKS]
    return isinstance(record, ConfigRecord) and dict(record) == {HEAD: _ANSWER.pack(SCHEMA, round_index, NOTHING)}


def serialized_bytes(content: RecordDict) -> int:
    """Size of the records as they are serialized for transport."""
    return int(recorddict_to_proto(content).ByteSize())


def reply_failure(reply: Message) -> str:
    """The reason that an error reply gives, or ``""`` for a reply with content."""
    if not reply.has_error():
        return ""
    lines = (reply.error.reason or "").strip().splitlines()
    return lines[-1] if lines else f"error code {reply.error.code}"


def _reply(name: str, held: dict[str, bytes]) -> RecordDict:
    return RecordDict({name: ConfigRecord(cast("Any", held))})


def _pack_start(start: Start) -> tuple[str, bytes]:
    if isinstance(start, Sums):
        return SUMS, _START.pack(start.base, start.digest) + joined(start.entries)
    if isinstance(start, QuantizedAdapter):
        ranges = start.ranges.numpy().astype("<f4").tobytes()
        return PROXY, _PROXY.pack(start.bits, start.size) + start.codes.numpy().tobytes() + ranges
    return ADAPTER, start.contiguous().numpy().astype("<f4", copy=False).tobytes()


def _unpack_start(task: dict[str, Any]) -> Start:
    found = {name: task[name] for name in _STARTS if name in task}
    surplus = task.keys() - {HEAD, ASSIGNMENT, MASK, *_STARTS}
    if len(found) != 1 or surplus:
        raise WireError(f"instruction holds {', '.join(sorted(task))}: expected one of {', '.join(_STARTS)}")
    ((name, data),) = found.items()
    if not isinstance(data, bytes):
        raise WireError(f'field "{name}" is a {type(data).__name__}, expected bytes')
    try:
        return _STARTS[name](data)
    except (ValueError, struct.error) as error:
        raise WireError(str(error)) from error


def _unpack_adapter(data: bytes) -> Tensor:
    if not data or len(data) % 4:
        raise ValueError(f"adapter is {len(data)} bytes, expected a finite float32 vector")
    adapter = torch.from_numpy(np.frombuffer(data, "<f4").astype(np.float32))
    if not torch.isfinite(adapter).all():
        raise ValueError("adapter holds NaN or infinities, expected a finite float32 vector")
    return adapter


def _unpack_proxy(data: bytes) -> QuantizedAdapter:
    if len(data) < _PROXY.size:
        raise ValueError(f"quantized adapter is {len(data)} bytes")
    width, size = _PROXY.unpack_from(data)
    end = _PROXY.size + -(-size * width // 8)
    ranges = data[end:]
    if len(ranges) % 8:
        raise ValueError(f"quantized adapter: ranges are {len(ranges)} bytes, expected two float32 a tensor")
    return QuantizedAdapter(
        bits=width,
        size=size,
        codes=torch.from_numpy(np.frombuffer(data[_PROXY.size : end], np.uint8).copy()),
        ranges=torch.from_numpy(np.frombuffer(ranges, "<f4").astype(np.float32).reshape(-1, 2)),
    )


def _unpack_sums(data: bytes) -> Sums:
    if len(data) < _START.size:
        raise ValueError(f"sums are {len(data)} bytes")
    base, digest = _START.unpack_from(data)
    entries = tuple(split_sums(data[_START.size :]))
    if entries and entries[0].round <= base:
        raise ValueError(f"a sum of round {entries[0].round} after those up to round {base}")
    if len(entries) > MOST_SUMS:
        raise ValueError(f"{len(entries)} sums at once, more than {MOST_SUMS}")
    return Sums(base, entries, digest)


_STARTS: dict[str, Callable[[bytes], Start]] = {ADAPTER: _unpack_adapter, PROXY: _unpack_proxy, SUMS: _unpack_sums}


def _pack_code(values: WireArray, terms: ReleaseTerms) -> bytes:
    """Integers in the bits of the range that the terms allow, whatever they are; float32 as it is."""
    if values.dtype.kind == "f":
        return values.astype("<f4").tobytes()
    return bits.pack(values.astype(np.int64) + terms.largest_value, 2 * terms.largest_value + 1)


def _read_code(data: object, terms: ReleaseTerms) -> WireArray:
    """The packed code of a reply."""
    if not isinstance(data, bytes):
        raise WireError(f"released code is a {type(data).__name__}, expected bytes")
    if not terms.noise_multiplier:
        if len(data) != 4 * terms.size:
            raise WireError(f"released code is {len(data)} bytes, expected {terms.size} values of float32")
        values = np.frombuffer(data, "<f4").astype(np.float32)
        if not np.isfinite(values).all():
            raise WireError("released code holds NaN or Inf")
        return values
    largest = terms.largest_value
    try:
        return (bits.unpack(data, terms.size, 2 * largest + 1) - largest).astype(terms.dtype)
    except ValueError as error:
        raise WireError(f"released code: {error}") from error


def _held(content: RecordDict, name: str) -> dict[str, Any]:
    record = content.get(name)  # not ``content.config_records[name]``, which copies every record to find one
    if not isinstance(record, ConfigRecord):
        raise WireError(f'ConfigRecord "{name}" is missing; the message has {sorted(content)}')
    return dict(record)


def _read(head: struct.Struct, content: RecordDict, name: str) -> tuple[Any, ...]:
    """What stands in the head of a record behind the schema, which must be this code's."""
    data = _held(content, name).get(HEAD)
    if not isinstance(data, bytes) or len(data) != head.size:
        raise WireError(f'"{name}": its head is {data!r:.40}, expected {head.size} bytes')
    schema, *found = head.unpack(data)
    if schema != SCHEMA:
        raise WireError(f"message has schema {schema}, this code speaks {SCHEMA}: update the older party")
    return tuple(found)
