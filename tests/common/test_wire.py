"""What travels, and what is refused."""

import math
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto

from common.adapter import Layout
from common.codecs import CONV, IdentityCodec, LinearCodec, NeuralCodec
from common.privacy.mechanism import ReleaseTerms
from common.proxy import QuantizedAdapter, quantize
from common.trajectory import RoundSum, StepTerms
from common.wire.assignment import STAGE_ONE_SHARE, Task, digest_of, pack_assignment
from common.wire.records import (
    HEAD,
    LacksAssignment,
    Sums,
    WireError,
    pack_instruction,
    received_adapter,
    serialized_bytes,
    unpack_instruction,
)
from common.wire.sums import pack_sum
from tests.support.messages import rewritten
from tests.support.tiny import vectors

LAYOUT = Layout.of({"a": (10, 20), "b": (300,)})
ADAPTER = vectors(1, 500, 0)[0]
CODEC = LinearCodec.of_form(LAYOUT, 32, 7)
TERMS = ReleaseTerms(32, 1.5, 0.8, "distributed", 9, normalize=True)
STEP = StepTerms(unit=0.25, denominator=9.0, factor=4.0, optimizer="adam", learning_rate=0.3)
TASK = Task(
    4,
    TERMS,
    "0123456789abcdef",
    raw=True,
    steps=3,
    learning_rate=0.5,
    share=STAGE_ONE_SHARE,
    refresh_every=2,
    step_terms=STEP,
)
ENTRIES = tuple(pack_sum(RoundSum(number, 5, np.arange(32) - 9)) for number in (2, 3))
SUMS = Sums(1, ENTRIES, b"8 bytes.")


def traveled(content: RecordDict) -> RecordDict:
    return recorddict_from_proto(recorddict_to_proto(content))


def test_an_instruction_arrives_as_it_was_sent() -> None:
    adapter, spec, task = unpack_instruction(traveled(pack_instruction(ADAPTER, CODEC.spec(), TASK)))
    assert isinstance(adapter, torch.Tensor)
    assert torch.equal(adapter, ADAPTER)
    assert task == TASK
    sent = CODEC.spec()
    assert (spec.kind, spec.version, dict(spec.fields)) == (sent.kind, sent.version, dict(sent.fields))
    assert spec.arrays.keys() == sent.arrays.keys()
    assert all(torch.equal(spec.arrays[name], sent.arrays[name]) for name in sent.arrays)


def test_a_sent_instruction_names_the_run_s_fixed_part_and_holds_it_once() -> None:
    whole, named = (traveled(pack_instruction(ADAPTER, CODEC.spec(), TASK, known=known)) for known in (False, True))
    with pytest.raises(LacksAssignment):
        unpack_instruction(named)
    assignment = pack_assignment(CODEC.spec(), TASK)
    assert unpack_instruction(named, {digest_of(assignment): assignment}.get).task == TASK
    assert unpack_instruction(whole).task == TASK
    saved = serialized_bytes(whole) - serialized_bytes(named)
    assert saved == pytest.approx(len(assignment), abs=20)


def test_an_assignment_is_the_same_in_every_round_of_a_run() -> None:
    other = Task(**{**TASK.__dict__, "round": 9, "sampled": False})
    assert pack_assignment(CODEC.spec(), other) == pack_assignment(CODEC.spec(), TASK)


def test_an_assignment_under_another_name_is_refused() -> None:
    content = pack_instruction(ADAPTER, CODEC.spec(), TASK)
    content["task"]["asks"] = pack_assignment(IdentityCodec(LAYOUT).spec(), TASK)  # type: ignore[index]
    with pytest.raises(WireError, match="not the one that it names"):
        unpack_instruction(content)


def test_sums_arrive_as_they_were_sent() -> None:
    sent = unpack_instruction(traveled(pack_instruction(SUMS, CODEC.spec(), TASK))).start
    assert sent == SUMS


def test_cover_is_the_same_instruction_to_a_client_that_is_not_sampled() -> None:
    content = pack_instruction(SUMS, CODEC.spec(), TASK)
    assert unpack_instruction(content, sampled=False).task == Task(**{**TASK.__dict__, "sampled": False})


@pytest.mark.parametrize("trust", ["central", "distributed", "local"])
def test_every_term_arrives(trust: Any) -> None:
    terms = ReleaseTerms(7, 0.25, 3.0, trust, 4, normalize=False)
    content = traveled(pack_instruction(ADAPTER, CODEC.spec(), Task(0, terms, "x")))
    assert unpack_instruction(content)[2] == Task(0, terms, "x", raw=False)


def test_learned_weights_arrive() -> None:
    torch.manual_seed(0)
    codec = NeuralCodec(LAYOUT, CONV, option=2, scale=2.0, encoder=CONV.encoder(500, 2), decoder=CONV.decoder(500, 2))
    spec = unpack_instruction(traveled(pack_instruction(ADAPTER, codec.spec(), TASK)))[1]
    assert spec.arrays
    assert all(torch.equal(spec.arrays[name], value) for name, value in codec.spec().arrays.items())


def test_an_instruction_holds_the_encoder_and_nothing_of_the_decoder() -> None:
    torch.manual_seed(0)
    codec = NeuralCodec(LAYOUT, CONV, option=2, scale=2.0, encoder=CONV.encoder(500, 2), decoder=CONV.decoder(500, 2))
    content = pack_instruction(ADAPTER, codec.spec(), TASK)
    assert {name: set(record) for name, record in content.items()} == {"task": {"head", "asks", "adapter"}}
    assert all(name.startswith("encoder.") for name in unpack_instruction(content).encoder.arrays)
    spare = serialized_bytes(content) - codec.spec().nbytes - 4 * LAYOUT.size
    assert spare < 900, "names and shapes; no decoder"


def drop(key: str) -> Callable[[RecordDict], RecordDict]:
    return lambda content: RecordDict({"task": ConfigRecord({k: v for k, v in held(content).items() if k != key})})


def put(key: str, value: Any) -> Callable[[RecordDict], RecordDict]:
    return lambda content: RecordDict({"task": ConfigRecord({**held(content), key: value})})


def held(content: RecordDict) -> dict[str, Any]:
    return dict(content.config_records["task"])


def asks(change: Callable[[dict[str, Any]], object]) -> Callable[[RecordDict], RecordDict]:
    """Changes the header of the assignment, under its right name."""
    return lambda content: rewritten(content, change)


def flat(values: np.ndarray) -> Callable[[RecordDict], RecordDict]:
    return put("adapter", values.tobytes())


def bare(data: bytes) -> Callable[[RecordDict], RecordDict]:
    """Another assignment altogether, under its right name."""

    def change(content: RecordDict) -> RecordDict:
        head = bytes(held(content)[HEAD])[:-8] + digest_of(data)
        return RecordDict({"task": ConfigRecord({**held(content), HEAD: head, "asks": data})})

    return change


def parcel(text: bytes) -> bytes:
    packed = zlib.compress(text)
    return struct.pack("<I", len(packed)) + packed


BAD_INSTRUCTIONS: dict[str, tuple[str, Callable[[RecordDict], RecordDict]]] = {
    "no task": (r'Record "task" is missing', lambda _: RecordDict()),
    "no head": (r"head is None, expected 13 bytes", drop("head")),
    "no start": (r"expected one of adapter, proxy, sums", drop("adapter")),
    "two starts": (r"expected one of adapter, proxy, sums", put("sums", b"")),
    "a field too many": (r"expected one of adapter", put("more", 1)),
    "an adapter of no bytes": (r"a str, expected bytes", put("adapter", "x")),
    "other schema": (r"schema 1, this code speaks 3", lambda c: put("head", b"\x01" + held(c)[HEAD][1:])(c)),
    "an assignment of no bytes": (r"is not the one that it names", put("asks", "x")),
    "an assignment too short": (r"malformed", bare(b"x")),
    "an assignment that is no JSON": (r"malformed", bare(parcel(b"x"))),
    "nested without end": (r"malformed", bare(parcel(b"[" * 100_000))),
    "a header too long": (r"cut off, or too long", bare(parcel(b" " * (2 << 20)))),
    "bytes of no array": (r"bytes are of no array", lambda c: bare(bytes(held(c)["asks"]) + b"x")(c)),
    "no encoder": (r"kind", asks(lambda header: header.pop("kind"))),
    "no encoder arrays": (r"arrays", asks(lambda header: header.pop("arrays"))),
    "an array that is not there": (r"does not fit", asks(lambda header: header["arrays"].append(["x", "int64", [9]]))),
    "an array of objects": (r"is object of shape", asks(lambda header: header["arrays"].append(["x", "object", [9]]))),
    "a backward shape": (r"has shape \[-1\]", asks(lambda header: header["arrays"].append(["x", "int64", [-1]]))),
    "fields of lists": (r"no numbers and texts", asks(lambda header: header["fields"].update(x=[]))),
    "no clip norm": (r"clip_norm", asks(lambda header: header["terms"].pop("clip_norm"))),
    "no trust": (r"trust", asks(lambda header: header["terms"].pop("trust"))),
    "other trust": (r"trust must be central", asks(lambda header: header["terms"].update(trust="nobody"))),
    "negative noise": (r"noise multiplier", asks(lambda header: header["terms"].update(noise_multiplier=-1.0))),
    "zero clip norm": (r"clip norm", asks(lambda header: header["terms"].update(clip_norm=0.0))),
    "half a value": (r"0.5 is no whole number", asks(lambda header: header["terms"].update(size=0.5))),
    "a round beyond numbers": (r"malformed", lambda c: put("head", b"\x03\xff\xff\xff\xff" + held(c)[HEAD][5:])(c)),
    "no steps": (r"steps", asks(lambda header: header.pop("steps"))),
    "steps backwards": (r"expected 0 to", asks(lambda header: header.update(steps=-1))),
    "steps without end": (r"expected 0 to", asks(lambda header: header.update(steps=2**40))),
    "redraws backwards": (r"expected 0 to", asks(lambda header: header.update({"refresh-every": -1}))),
    "no share": (r"share", asks(lambda header: header.pop("share"))),
    "a share of the server's own": (r"share = 0.31: .* a share of 0 or 0.3", asks(lambda h: h.update(share=0.31))),
    "a share that is none": (r"a share of 0", asks(lambda header: header.update(share=math.nan))),
    "an endless step": (r"a finite learning rate", asks(lambda header: header.update({"learning-rate": math.inf}))),
    "a step that is none": (r"a finite learning rate", asks(lambda header: header.update({"learning-rate": math.nan}))),
    "no denominator": (r"must be positive", asks(lambda header: header["step"].update(denominator=0.0))),
    "doubles cut": (r"expected a finite float32 vector", put("adapter", bytes(6))),
    "nothing": (r"expected a finite float32 vector", put("adapter", b"")),
    "nan": (r"expected a finite float32 vector", flat(np.full(500, np.nan, dtype=np.float32))),
}


@pytest.mark.parametrize("name", BAD_INSTRUCTIONS)
def test_malformed_instructions_are_refused(name: str) -> None:
    message, mutate = BAD_INSTRUCTIONS[name]
    content = mutate(pack_instruction(ADAPTER, CODEC.spec(), TASK))
    with pytest.raises(WireError, match=message):
        unpack_instruction(traveled(content))


def sums(data: bytes) -> RecordDict:
    return put("sums", data)(pack_instruction(SUMS, CODEC.spec(), TASK))


DATA = bytes(held(pack_instruction(SUMS, CODEC.spec(), TASK))["sums"])
BAD_SUMS = {
    "nothing": b"",
    "cut off": DATA[:-1],
    "a number without end": DATA + b"\xff" * 12,
    "the same round twice": DATA + ENTRIES[1].data,
    "a round that the client has": struct.pack("<I8s", 2, b"8 bytes.") + ENTRIES[0].data,
}


@pytest.mark.parametrize("name", BAD_SUMS)
def test_malformed_sums_are_refused(name: str) -> None:
    with pytest.raises(WireError, match=r"sum"):
        unpack_instruction(traveled(sums(BAD_SUMS[name])))


PROXY = quantize(ADAPTER, LAYOUT, 3)


def test_a_proxy_arrives_as_it_was_sent() -> None:
    content = traveled(pack_instruction(PROXY, CODEC.spec(), TASK))
    sent, spec, task = unpack_instruction(content)
    assert isinstance(sent, QuantizedAdapter)
    assert (sent.bits, sent.size) == (3, 500)
    assert torch.equal(received_adapter(sent, LAYOUT), PROXY.dequantize(LAYOUT))
    assert (spec.kind, task) == (CODEC.spec().kind, TASK)
    assert set(held(content)) == {"head", "asks", "proxy"}


BITS_SIZE = struct.Struct("<BQ")
RANGES = PROXY.ranges.numpy().astype("<f4").tobytes()


def proxy(
    bits: int = 3, size: int = 500, codes: bytes = PROXY.codes.numpy().tobytes(), ranges: bytes = RANGES
) -> bytes:
    return BITS_SIZE.pack(bits, size) + codes + ranges


BAD_PROXIES: dict[str, tuple[str, bytes]] = {
    "nothing": (r"quantized adapter is 3 bytes", b"abc"),
    "bits beyond the range": (r"bits = 9, expected 1 to 8", proxy(bits=9, codes=bytes(563))),
    "fewer bits": (r"ranges are 79 bytes", proxy(bits=2)),
    "size beyond the codes": (r"expected \d+ bytes", proxy(size=2**60)),
    "no size": (r"size = 0", proxy(size=0, codes=b"")),
    "short codes": (r"ranges are 15 bytes", proxy(codes=bytes(187))),
    "padding": (r"the last 4 bits are padding", proxy(codes=b"\xff" * 188)),
    "torn ranges": (r"ranges are 15 bytes", proxy(ranges=bytes(15))),
    "nan": (r"a range is not finite", proxy(ranges=np.full(4, np.nan, "<f4").tobytes())),
    "inf": (r"a range is not finite", proxy(ranges=np.array([0, np.inf] * 2, "<f4").tobytes())),
    "swapped": (r"ends are swapped", proxy(ranges=np.array([1, 0] * 2, "<f4").tobytes())),
}


@pytest.mark.parametrize("name", BAD_PROXIES)
def test_malformed_proxies_are_refused(name: str) -> None:
    message, data = BAD_PROXIES[name]
    content = put("proxy", data)(pack_instruction(PROXY, CODEC.spec(), TASK))
    with pytest.raises(WireError, match=message):
        unpack_instruction(traveled(content))


@pytest.mark.parametrize("sent", [ADAPTER, PROXY], ids=["adapter", "proxy"])
def test_an_adapter_of_another_size_is_refused(sent: Any) -> None:
    with pytest.raises(WireError, match=r"500 values.* 501"):
        received_adapter(sent, Layout.of({"a": (10, 20), "b": (301,)}))


def test_a_two_bit_broadcast_is_about_16_times_smaller_than_the_adapter() -> None:
    """Whole instructions: the encoder's description, the task and two floats a tensor are what is missing to 16."""
    shapes = {f"{layer}.{factor}": (8, 96) for layer in range(16) for factor in "ab"}  # the demo's
    for layout, least in ((Layout.of(shapes), 13.5), (Layout.of({"a": (500, 800), "b": (800, 500)}), 15.9)):
        vector = vectors(1, layout.size, 3)[0]
        spec = IdentityCodec(layout).spec()
        plain, quantized = (
            serialized_bytes(pack_instruction(sent, spec, TASK)) for sent in (vector, quantize(vector, layout, 2))
        )
        assert least < plain / quantized <= 16
