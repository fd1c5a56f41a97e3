"""What an instruction asks besides its round: encoder, release terms, local work. It is sent once, then named.

As bytes: the length of a header (4 bytes), the header (JSON, deflated), the encoder's arrays one after the other. Its
name is a hash of these bytes, so who holds something under a name holds what is meant.
"""

import hashlib
import json
import math
import struct
import zlib
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.codecs.base import EncoderSpec
from common.privacy.mechanism import ReleaseTerms
from common.trajectory import StepTerms, epoch_of

MOST_STEPS = 2**31 - 1
DIGEST_BYTES = 8
STAGE_ONE_SHARE = 0.3
"""Of a client's examples, where stage 1 keeps a part to itself (FedCG; the paper's).

No other: parting takes time that tells how many rows there are. A site does it once, and a server must not bring it
about anew by ever other shares.
"""
_SHARES = (0.0, STAGE_ONE_SHARE)
_LENGTH = struct.Struct("<I")
_LONGEST_HEADER = 1 << 20
_MOST_DIMENSIONS = 8
_TYPES = ("float16", "float32", "float64", "int32", "int64")


@dataclass(frozen=True)
class Task:
    """What one instruction asks: which round, under which release terms, with which app code.

    A client knows stage 1 from here alone, whatever the strategy: ``steps`` local steps of size ``learning_rate`` (both
    0 in a round, which trains as the run's ``train`` section says), on the ``share`` of its examples that stage 1 has
    to itself (0: every stage uses all of them). ``sampled``: whether the client is in the cohort. One that is not
    answers cover traffic: the zero code with its noise, of equal length, without touching its data. ``refresh_every``:
    rounds after which the codec is redrawn. ``step_terms``: how a released sum becomes a step, where clients get sums.
    ``evaluation``: under which terms the client's scores on its own held-out rows may be asked for, by an instruction
    of its own with this same assignment; it keeps such rows from training where the run's configuration says so.
    """

    round: int
    terms: ReleaseTerms
    code_digest: str
    raw: bool = False
    steps: int = 0
    learning_rate: float = 0.0
    share: float = 0.0
    sampled: bool = True
    refresh_every: int = 0
    step_terms: StepTerms | None = None
    evaluation: ReleaseTerms | None = None

    def __post_init__(self) -> None:
        if not (0 <= self.steps <= MOST_STEPS and 0 <= self.learning_rate < math.inf and self.share in _SHARES):
            raise ValueError(
                f"steps = {self.steps}, learning rate = {self.learning_rate}, share = {self.share}: expected 0 to "
                f"{MOST_STEPS} steps, a finite learning rate and a share of 0 or {STAGE_ONE_SHARE:g}"
            )
        if not (0 <= self.round <= MOST_STEPS and 0 <= self.refresh_every <= MOST_STEPS):
            raise ValueError(f"round = {self.round}, refresh-every = {self.refresh_every}: expected 0 to {MOST_STEPS}")

    @property
    def epoch(self) -> int:
        """Which draw of a seeded codec this round uses."""
        return epoch_of(self.round, self.refresh_every)


def digest_of(assignment: bytes) -> bytes:
    """The name of an assignment."""
    return hashlib.blake2b(assignment, digest_size=DIGEST_BYTES).digest()


def pack_assignment(encoder: EncoderSpec, task: Task) -> bytes:
    """Encoder and task as bytes, but for the task's round and ``sampled``; the same for all rounds of a run."""
    header = {
        "code-digest": task.code_digest,
        "raw": task.raw,
        "steps": task.steps,
        "learning-rate": float(task.learning_rate),
        "share": float(task.share),
        "refresh-every": task.refresh_every,
        "terms": asdict(task.terms),
        "step": asdict(task.step_terms) if task.step_terms else None,
        **({"evaluation": asdict(task.evaluation)} if task.evaluation else {}),
        "kind": encoder.kind,
        "version": encoder.version,
        "fields": dict(encoder.fields),
        "arrays": [[name, str(a.numpy().dtype), list(a.shape)] for name, a in encoder.arrays.items()],
    }
    packed = zlib.compress(json.dumps(header, separators=(",", ":")).encode(), 9)
    arrays = (value.contiguous().numpy() for value in encoder.arrays.values())
    return b"".join([_LENGTH.pack(len(packed)), packed, *(_little(array) for array in arrays)])


def unpack_assignment(data: bytes, server_round: int, *, sampled: bool) -> tuple[EncoderSpec, Task]:
    """The inverse of ``pack_assignment`` for a round; raises ``ValueError``, ``KeyError`` or ``TypeError``."""
    start = _LENGTH.size
    (length,) = _LENGTH.unpack(data[:start]) if len(data) >= start else (0,)
    header = json.loads(_inflated(data[start : start + length]))
    encoder = EncoderSpec(
        str(header["kind"]), _int(header["version"]), _fields(header["fields"]), _arrays(header, data[start + length :])
    )
    step, scores = header["step"], header.get("evaluation")
    task = Task(
        round=server_round,
        terms=_terms(header["terms"]),
        code_digest=str(header["code-digest"]),
        raw=bool(header["raw"]),
        steps=_int(header["steps"]),
        learning_rate=float(header["learning-rate"]),
        share=float(header["share"]),
        sampled=sampled,
        refresh_every=_int(header["refresh-every"]),
        step_terms=None if step is None else _step_terms(step),
        evaluation=None if scores is None else _terms(scores),
    )
    return encoder, task


def _terms(terms: dict[str, Any]) -> ReleaseTerms:
    return ReleaseTerms(
        size=_int(terms["size"]),
        clip_norm=float(terms["clip_norm"]),
        noise_multiplier=float(terms["noise_multiplier"]),
        trust=terms["trust"],
        shares=_int(terms["shares"]),
        normalize=bool(terms["normalize"]),
    )


def _step_terms(step: dict[str, Any]) -> StepTerms:
    return StepTerms(
        unit=float(step["unit"]),
        denominator=float(step["denominator"]),
        factor=float(step["factor"]),
        optimizer=str(step["optimizer"]),
        learning_rate=float(step["learning_rate"]),
    )


def _inflated(data: bytes) -> bytes:
    """A header of at most a mebibyte, however small the bytes that announce it."""
    stream = zlib.decompressobj()
    try:
        found = stream.decompress(data, _LONGEST_HEADER)
    except zlib.error as error:
        raise ValueError(f"its header is damaged: {error}") from None
    if not stream.eof or stream.unused_data:
        raise ValueError("its header is cut off, or too long")
    return found


def _fields(held: object) -> dict[str, int | float | str]:
    if not isinstance(held, dict) or any(type(value) not in (int, float, str) for value in held.values()):
        raise ValueError("its encoder's fields are no numbers and texts")
    return held


def _arrays(header: dict[str, Any], data: bytes) -> dict[str, Tensor]:
    """The encoder's arrays: what their shapes announce must be the bytes that came."""
    found, offset = {}, 0
    for name, kind, shape in header["arrays"]:
        if kind not in _TYPES or not isinstance(shape, list) or len(shape) > _MOST_DIMENSIONS:
            raise ValueError(f"array {name!r} is {kind} of shape {shape}; expected one of {', '.join(_TYPES)}")
        if any(type(extent) is not int or extent < 0 for extent in shape):
            raise ValueError(f"array {name!r} has shape {shape}")
        dtype, count = np.dtype(kind), math.prod(shape)
        body = data[offset : offset + count * dtype.itemsize]
        if len(body) != count * dtype.itemsize:
            raise ValueError(f"array {name!r}: shape {shape} of {kind} does not fit {len(body)} bytes")
        values = np.frombuffer(body, dtype.newbyteorder("<")).astype(dtype).reshape(shape)
        found[str(name)] = torch.from_numpy(values)
        offset += len(body)
    if offset != len(data):
        raise ValueError(f"{len(data) - offset} bytes are of no array")
    return found


def _little(array: np.ndarray) -> bytes:
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def _int(value: object) -> int:
    if type(value) is not int:
        raise ValueError(f"{value!r} is no whole number")
    return value
