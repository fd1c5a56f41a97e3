"""What a client sends back: a packed code, or that it lacks something; what is refused of it."""

import math
import struct
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto

from common.privacy.mechanism import ReleaseTerms, release
from common.privacy.noise import RandomSource
from common.wire.records import (
    WireError,
    is_lack,
    kept_by,
    pack_lack,
    pack_release,
    release_bytes,
    serialized_bytes,
    unpack_release,
)
from tests.support.messages import instruction
from tests.support.tiny import vectors

TERMS = ReleaseTerms(32, 1.5, 0.8, "distributed", 9, normalize=True)


def traveled(content: RecordDict) -> RecordDict:
    return recorddict_from_proto(recorddict_to_proto(content))


VALUES = release(vectors(1, 32, 1)[0], TERMS, RandomSource.system())


def test_a_reply_holds_the_released_code_its_round_and_what_is_kept_and_nothing_else() -> None:
    content = traveled(pack_release(VALUES, 4, TERMS, 3))
    assert {name: set(record) for name, record in content.items()} == {"release": {"head", "code"}}
    assert content["release"]["head"] == struct.pack("<BIi", 3, 4, 3)  # type: ignore[index]
    assert kept_by(content) == 3


@pytest.mark.parametrize("size", [1, 31, 256])
@pytest.mark.parametrize("noise", [0.0, 0.5, 3.0, 400.0])
def test_a_release_arrives_as_it_was_sent_in_the_bits_of_its_range(size: int, noise: float) -> None:
    """As long for every code: the length is a function of the terms."""
    terms = ReleaseTerms(size, 1.5, noise, "distributed", 9, normalize=True)
    lengths = set()
    for code in (torch.zeros(size), vectors(1, size, 3)[0], vectors(1, size, 3)[0] * 1e9):
        values = release(code, terms, RandomSource.system())
        content = traveled(pack_release(values, 4, terms))
        received = unpack_release(content, 4, terms)
        assert np.array_equal(received, values)
        assert received.dtype == values.dtype
        lengths.add(serialized_bytes(content))
    assert lengths == {release_bytes(terms)}
    bits = math.log2(2 * terms.largest_value + 1) if noise else 32
    assert release_bytes(terms) < size * (bits + 0.6) / 8 + 60


@pytest.mark.parametrize("extreme", [-1, 1])
def test_the_ends_of_the_range_arrive(extreme: int) -> None:
    values = np.full(32, extreme * TERMS.largest_value, TERMS.dtype)
    assert np.array_equal(unpack_release(pack_release(values, 4, TERMS), 4, TERMS), values)


def test_a_client_that_lacks_something_says_so_and_nothing_else() -> None:
    content = traveled(pack_lack(7))
    reply = Message(content, reply_to=instruction(RecordDict()))
    assert is_lack(reply, 7)
    assert not is_lack(reply, 8)
    content["lacks"]["more"] = b"x"  # type: ignore[index]
    assert not is_lack(Message(content, reply_to=instruction(RecordDict())), 7)
    assert not is_lack(Message(pack_release(VALUES, 7, TERMS), reply_to=instruction(RecordDict())), 7)


def changed(key: str, value: Any) -> RecordDict:
    content = pack_release(VALUES, 4, TERMS)
    content.config_records["release"][key] = value
    return content


CLEAR = ReleaseTerms(32, 1.5, 0.0, "distributed", 9, normalize=True)
NAN = np.array([np.nan] + [0.0] * 31, dtype=np.float32)
BAD_RELEASES: dict[str, tuple[RecordDict, ReleaseTerms]] = {
    r'ConfigRecord "release" is missing': (RecordDict(), TERMS),
    r'"release" is missing; the message has \[.release.\]': (RecordDict({"release": ArrayRecord()}), TERMS),
    r"schema 4, this code speaks 3": (changed("head", struct.pack("<BIi", 4, 4, 0)), TERMS),
    r"head is b'', expected 9 bytes": (changed("head", b""), TERMS),
    r"round 3, expected 4": (changed("head", struct.pack("<BIi", 3, 3, 0)), TERMS),
    r"a str, expected bytes": (changed("code", "x" * 128), TERMS),
    r"62 bytes, expected 68 for 32 values": (pack_release(VALUES[:30], 4, TERMS), TERMS),
    r"128 bytes, expected 68": (pack_release(VALUES.astype(np.float32), 4, CLEAR), TERMS),
    r"68 bytes, expected 32 values of float32": (pack_release(VALUES, 4, TERMS), CLEAR),
    r"a value is not out of": (changed("code", b"\xff" * 68), TERMS),
    r"NaN or Inf": (pack_release(NAN, 4, CLEAR), CLEAR),
    r"Inf$": (pack_release(NAN * 0 + np.inf, 4, CLEAR), CLEAR),
}


@pytest.mark.parametrize(("message", "case"), BAD_RELEASES.items(), ids=range(len(BAD_RELEASES)))
def test_malformed_replies_are_refused(message: str, case: tuple[RecordDict, ReleaseTerms]) -> None:
    content, terms = case
    with pytest.raises(WireError, match=message):
        unpack_release(traveled(content), 4, terms)


def test_terms_fit_the_types_used_above() -> None:
    assert (TERMS.dtype, CLEAR.dtype) == (np.int32, np.float32)


LONG = RecordDict({"x": ConfigRecord({"y": "long" * 99})})


@pytest.mark.parametrize("content", [pack_release(VALUES, 4, TERMS), LONG])
def test_bytes_are_those_of_the_serialized_records(content: RecordDict) -> None:
    assert serialized_bytes(content) == len(recorddict_to_proto(content).SerializeToString())


def test_a_private_code_of_256_values_is_85_times_smaller_than_a_plain_gradient_under_the_same_noise() -> None:
    """Default adapter of the demo: rank 8 on four projections of four layers of width 96. Up only; down is the rest."""
    code, whole = (ReleaseTerms(size, 1.0, 1.0, "distributed", 100, normalize=True) for size in (256, 24_576))
    assert release_bytes(code) * 85 <= release_bytes(whole)
