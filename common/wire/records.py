"""What travels between server and clients, and nothing else: record names, schema version, checks, byte counts.

An instruction (train, statistics, gradients) carries the flat adapter or its quantized proxy, the encoder and the
release terms. A reply carries one vector (the released code, as plain bytes: nothing to parse, nothing to spare) and
the round it belongs to. No loss and no example count leaves a client: each would be a release outside the mechanism.
Flower itself adds one thing, how long the client's process ran: see ``answer-seconds`` in docs/privacy.md.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.common.serde import recorddict_to_proto
from torch import Tensor

from common.adapter import Layout
from common.codecs.base import EncoderSpec
from common.privacy.mechanism import ReleaseTerms
from common.proxy import QuantizedAdapter
from common.wire.arrays import read_array

_R = TypeVar("_R", ArrayRecord, ConfigRecord)
SCHEMA = 1
MOST_STEPS = 2**31 - 1
STATISTICS, GRADIENTS = "query.statistics", "query.gradients"
TRAIN = "train"
ADAPTER, ENCODER, TASK, RELEASE = "adapter", "encoder", "task", "release"
_PROXY_FIELDS: dict[str, type] = {"bits": int, "size": int, "codes": bytes, "ranges": bytes}


class WireError(ValueError):
    """A message is not what the protocol allows; the text names the record, what it holds and what was expected."""


@dataclass(frozen=True)
class Task:
    """What one instruction asks: which round, under which release terms, with which app code.

    A client knows stage 1 from here alone, whatever the strategy: ``steps`` local steps of size ``learning_rate`` (both
    0 in a round, which trains as the run's ``train`` section says), on the ``share`` of its examples that stage 1 has
    to itself (0: every stage uses all of them). ``sampled``: whether the client is in the cohort. One that is not
    answers cover traffic: the zero code with its noise, of equal length, without touching its data.
    """

    round: int
    terms: ReleaseTerms
    code_digest: str
    raw: bool = False
    steps: int = 0
    learning_rate: float = 0.0
    share: float = 0.0
    sampled: bool = True

    def __post_init__(self) -> None:
        if not (0 <= self.steps <= MOST_STEPS and 0 <= self.learning_rate < math.inf and 0 <= self.share < 1):
            raise ValueError(
                f"steps = {self.steps}, learning rate = {self.learning_rate}, share = {self.share}: expected 0 to "
                f"{MOST_STEPS} steps, a finite learning rate and a share from 0 up to, not including, 1"
            )


def pack_instruction(adapter: Tensor | QuantizedAdapter, encoder: EncoderSpec, task: Task) -> RecordDict:
    """An instruction: the flat adapter (shape ``[n]``) or its proxy, the encoder's specification and the task."""
    terms = task.terms
    header = {
        "schema": SCHEMA,
        "round": task.round,
        "code-digest": task.code_digest,
        "raw": task.raw,
        "steps": task.steps,
        "learning-rate": float(task.learning_rate),
        "share": float(task.share),
        "sampled": task.sampled,
        "size": terms.size,
        "clip-norm": terms.clip_norm,
        "noise-multiplier": terms.noise_multiplier,
        "trust": terms.trust,
        "shares": terms.shares,
        "normalize": terms.normalize,
    }
    return RecordDict(
        {
            ADAPTER: _pack_proxy(adapter) if isinstance(adapter, QuantizedAdapter) else _pack_flat(adapter),
            **pack_encoder(encoder),
            TASK: ConfigRecord(cast("Any", header)),
        }
    )


def pack_encoder(encoder: EncoderSpec) -> RecordDict:
    """An encoder's part of an instruction."""
    fields = {"kind": encoder.kind, "version": encoder.version, **encoder.fields}
    arrays = {f"array.{name}": Array(value.contiguous().numpy()) for name, value in encoder.arrays.items()}
    return RecordDict({ENCODER: ConfigRecord(cast("Any", fields)), f"{ENCODER}-arrays": ArrayRecord(arrays)})


def as_cover(instruction: RecordDict) -> RecordDict:
    """The same instruction for a client that is not in the cohort; it shares all records but the task.

    Equally long when it is serialized, since Flower writes a false value as it writes a true one.
    """
    task = ConfigRecord({**_config(instruction, TASK), "sampled": False})
    return RecordDict({name: task if name == TASK else record for name, record in instruction.items()})


def unpack_instruction(content: RecordDict) -> tuple[Tensor | QuantizedAdapter, EncoderSpec, Task]:
    """The inverse of ``pack_instruction``; anything malformed raises ``WireError``."""
    header = _config(content, TASK)
    _check_schema(header)
    adapter = _unpack_proxy(content) if isinstance(content.get(ADAPTER), ConfigRecord) else _unpack_flat(content)
    fields = dict(_config(content, ENCODER))
    try:
        arrays = {
            name.removeprefix("array."): torch.from_numpy(read_array(array))
            for name, array in _record(content, f"{ENCODER}-arrays", ArrayRecord).items()
        }
        spec = EncoderSpec(str(fields.pop("kind")), int(cast("int", fields.pop("version"))), fields, arrays)
        terms = ReleaseTerms(
            size=int(header["size"]),
            clip_norm=float(header["clip-norm"]),
            noise_multiplier=float(header["noise-multiplier"]),
            trust=header["trust"],
            shares=int(header["shares"]),
            normalize=bool(header["normalize"]),
        )
        task = Task(
            int(header["round"]),
            terms,
            str(header["code-digest"]),
            bool(header["raw"]),
            int(header["steps"]),
            float(header["learning-rate"]),
            float(header["share"]),
            sampled=bool(header["sampled"]),
        )
        return adapter, spec, task
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise WireError(f"instruction is malformed: {error!r}") from error


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


_RELEASE_FIELDS = {"schema", "round", "dtype", "values"}


def pack_release(values: np.ndarray, round_index: int) -> RecordDict:
    """A reply: one released vector (little-endian bytes) and the round it was made for."""
    little = values.astype(values.dtype.newbyteorder("<"), copy=False)
    release = {"schema": SCHEMA, "round": round_index, "dtype": str(values.dtype), "values": little.tobytes()}
    return RecordDict({RELEASE: ConfigRecord(cast("Any", release))})


def unpack_release(content: RecordDict, round_index: int, terms: ReleaseTerms) -> np.ndarray:
    """The released vector of a reply; one of another round, size, dtype or range raises ``WireError``."""
    release = _config(content, RELEASE)
    _check_schema(release)
    surplus = (content.keys() - {RELEASE}) | (release.keys() - _RELEASE_FIELDS)
    if surplus:
        raise WireError(f"reply holds more than a release: {', '.join(sorted(surplus))}")
    if release.get("round") != round_index:
        raise WireError(f"reply belongs to round {release.get('round')}, expected {round_index}")
    data, dtype, expected = release.get("values"), release.get("dtype"), np.dtype(terms.dtype)
    if not isinstance(data, bytes) or dtype != str(expected) or len(data) != terms.size * expected.itemsize:
        held = f"{len(data)} bytes of {dtype}" if isinstance(data, bytes) else f"a {type(data).__name__}"
        raise WireError(f"released code is {held}, expected {terms.size} values of {expected}")
    values = np.frombuffer(data, expected.newbyteorder("<")).astype(expected, copy=False)
    if not np.isfinite(values).all():
        raise WireError("released code holds NaN or Inf")
    return values


def serialized_bytes(content: RecordDict) -> int:
    """Size of the records as they are serialized for transport."""
    return int(recorddict_to_proto(content).ByteSize())


def reply_failure(reply: Message) -> str:
    """The reason that an error reply gives, or ``""`` for a reply with content."""
    if not reply.has_error():
        return ""
    return (reply.error.reason or f"error code {reply.error.code}").strip().splitlines()[-1]


def _pack_flat(adapter: Tensor) -> ArrayRecord:
    return ArrayRecord({"flat": Array(adapter.contiguous().numpy())})


def _unpack_flat(content: RecordDict) -> Tensor:
    adapter = torch.from_numpy(_array(content, ADAPTER, "flat"))
    if adapter.dtype != torch.float32 or adapter.ndim != 1 or not torch.isfinite(adapter).all():
        raise WireError(f"adapter is {adapter.dtype} of shape {tuple(adapter.shape)}; expected a finite float32 vector")
    return adapter


def _pack_proxy(proxy: QuantizedAdapter) -> ConfigRecord:
    """Plain bytes, as in a reply: an array's header would be as long as the ranges of a small adapter."""
    ranges = proxy.ranges.numpy().astype("<f4").tobytes()
    codes = proxy.codes.numpy().tobytes()
    return ConfigRecord({"bits": proxy.bits, "size": proxy.size, "codes": codes, "ranges": ranges})


def _unpack_proxy(content: RecordDict) -> QuantizedAdapter:
    record = dict(_config(content, ADAPTER))
    held = {name: type(value) for name, value in record.items()}
    if held != _PROXY_FIELDS:
        raise WireError(f"quantised adapter holds {_typed(held)}, expected {_typed(_PROXY_FIELDS)}")
    codes, ranges = cast("bytes", record["codes"]), cast("bytes", record["ranges"])
    if len(ranges) % 8:
        raise WireError(f"quantised adapter: ranges are {len(ranges)} bytes, expected two float32 a tensor")
    try:
        return QuantizedAdapter(
            bits=record["bits"],
            size=record["size"],
            codes=torch.from_numpy(np.frombuffer(codes, np.uint8).copy()),
            ranges=torch.from_numpy(np.frombuffer(ranges, "<f4").astype(np.float32).reshape(-1, 2)),
        )
    except ValueError as error:
        raise WireError(str(error)) from error


def _typed(fields: Mapping[str, type]) -> str:
    return ", ".join(f"{name}: {kind.__name__}" for name, kind in fields.items())


def _record(content: RecordDict, name: str, kind: type[_R]) -> _R:
    record = content.get(name)  # not ``content.config_records[name]``, which copies every record to find one
    if not isinstance(record, kind):
        raise WireError(f'{kind.__name__} "{name}" is missing; the message has {sorted(content)}')
    return record


def _config(content: RecordDict, name: str) -> Mapping[str, Any]:
    return _record(content, name, ConfigRecord)


def _array(content: RecordDict, record: str, key: str) -> np.ndarray:
    try:
        return read_array(_record(content, record, ArrayRecord)[key])
    except (KeyError, ValueError) as error:
        raise WireError(f'array "{record}/{key}" is missing or unreadable: {error!r}') from error


def _check_schema(header: Mapping[str, Any]) -> None:
    if header.get("schema") != SCHEMA:
        raise WireError(f"message has schema {header.get('schema')}, this code speaks {SCHEMA}: update the older party")
