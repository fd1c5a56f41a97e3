"""Messages that went through a hostile pair of hands: a valid one with up to four changes of any kind."""

import struct
import zlib
from collections.abc import Callable
from typing import Any, cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictProto
from google.protobuf.message import DecodeError
from hypothesis import strategies as st

from common.wire.records import ASSIGNMENT, TASK
from tests.support.messages import rewritten

HUGE = 2**62
numbers = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([HUGE, -HUGE, 2**31, 2**40, 10**9]),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=True, allow_infinity=True),
)
scalars = st.one_of(
    numbers,
    st.booleans(),
    st.text(max_size=8),
    st.sampled_from(["1\n[dr-encoder] round 9", "\x1b[2J", "\x1b]0;title\x07", "A" * 10_000]),
    st.sampled_from(["local", "central", "distributed", "linear", "dense", "conv", "history", "identity", "float32"]),
    st.binary(max_size=64),
    st.lists(st.integers(-5, HUGE), max_size=4),
    st.lists(st.floats(), max_size=4),
)


def _header(dtype: str, shape: str) -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


real_arrays = st.builds(
    lambda dtype, shape, value: Array(np.full(shape, value, dtype=dtype)),
    st.sampled_from(["float32", "float64", "int64", "int8", "complex64", ">f4", "float16", "bool"]),
    st.lists(st.integers(0, 3), max_size=4),
    st.sampled_from([0, 1, -1, 7]),
)
false_arrays = st.builds(
    lambda dtype, shape, body, stype: Array("float32", (3,), stype, _header(dtype, shape) + body),
    st.sampled_from(["<f4", "<i8", "|O", "<U9", "|V4", "nonsense", "<f4','x':'"]),
    st.sampled_from(["(3,)", f"({HUGE},)", f"({HUGE}, {HUGE})", "(-1,)", "(0,)", "()", "(1" + ",1" * 40 + ")", "[3]"]),
    st.binary(max_size=40),
    st.sampled_from(["numpy.ndarray", "torch.Tensor", ""]),
)
arrays = st.one_of(
    real_arrays, false_arrays, st.builds(lambda data: Array("x", (1,), "numpy.ndarray", data), st.binary())
)
records = st.one_of(
    st.dictionaries(st.text(max_size=5), scalars, max_size=3).map(lambda held: ConfigRecord(cast("Any", held))),
    st.dictionaries(st.text(max_size=5), arrays, max_size=2).map(ArrayRecord),
    st.builds(lambda: MetricRecord({"x": 1})),
)


def _change(content: RecordDict, draw: Callable[..., Any]) -> RecordDict:
    names = sorted(content)
    what = draw(st.sampled_from(["drop", "replace", "add", "field", "bytes", *["header"] * 8]))
    if what == "header" and ASSIGNMENT in content.config_records.get(TASK, {}):
        return _change_header(content, draw)
    if what == "bytes" or not names:
        return _flip(content, draw)
    name = draw(st.sampled_from(names))
    if what == "drop":
        del content[name]
    elif what == "replace":
        del content[name]  # Flower warns of a record that is overwritten
        content[name] = draw(records)
    elif what == "add":
        content[f"added-{draw(st.text(max_size=8))}"] = draw(records)
    else:
        _change_field(content[name], draw)
    return content


def _change_header(content: RecordDict, draw: Callable[..., Any]) -> RecordDict:
    """Another value, or none, of what an instruction asks; under its name, so that it is believed."""

    def change(header: dict[str, Any]) -> None:
        held = draw(st.sampled_from([header, header["terms"], header["fields"]]))
        key = draw(st.sampled_from(sorted(held)))
        what = draw(st.integers(0, 9))
        if what == 0:
            del held[key]
        elif what < 4:
            held[key] = draw(st.one_of(numbers, st.booleans(), st.text(max_size=8)))
        elif isinstance(held[key], float):  # what an honest server might ask
            held[key] *= draw(st.sampled_from([0.5, 0.99, 1.0, 2.0]))

    try:
        return rewritten(content, change)
    except (ValueError, KeyError, TypeError, zlib.error, struct.error):  # an earlier change has left no header
        return content


def _change_field(record: Any, draw: Callable[..., Any]) -> None:
    keys = sorted(record)
    if not keys:
        return
    key = draw(st.sampled_from(keys))
    if draw(st.integers(0, 7)) == 0:
        del record[key]
    elif isinstance(record, ConfigRecord):
        record[key] = draw(scalars)
    elif isinstance(record, ArrayRecord):
        record[key] = draw(arrays)


def _flip(content: RecordDict, draw: Callable[..., Any]) -> RecordDict:
    """Some bytes of the serialized message are others; what Flower itself cannot parse never reaches this app."""
    data = bytearray(recorddict_to_proto(content).SerializeToString(deterministic=True))
    for _ in range(draw(st.integers(1, 4))):
        if data:
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    try:
        return recorddict_from_proto(RecordDictProto.FromString(bytes(data)))
    except (DecodeError, ValueError, KeyError, TypeError, AttributeError):
        return content


@st.composite
def mutated(draw: Callable[..., Any], make: Callable[[], RecordDict]) -> RecordDict:
    """A fresh valid message with one to four changes."""
    content = make()
    for _ in range(draw(st.integers(1, 4))):
        content = _change(content, draw)
    return content
