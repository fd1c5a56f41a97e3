"""What travels, and what is refused."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto

from common.adapter import Layout
from common.codecs import CONV, IdentityCodec, LinearCodec, NeuralCodec
from common.privacy.mechanism import ReleaseTerms, release
from common.privacy.noise import RandomSource
from common.proxy import QuantizedAdapter, quantize
from common.wire.records import (
    Task,
    WireError,
    pack_instruction,
    pack_release,
    received_adapter,
    serialized_bytes,
    unpack_instruction,
    unpack_release,
)
from tests.support.tiny import vectors

LAYOUT = Layout.of({"a": (10, 20), "b": (300,)})
ADAPTER = vectors(1, 500, 0)[0]
CODEC = LinearCodec.of_form(LAYOUT, 32, 7)
TERMS = ReleaseTerms(32, 1.5, 0.8, "distributed", 9, normalize=True)
TASK = Task(4, TERMS, "0123456789abcdef", raw=True, steps=3, learning_rate=0.5, share=0.25)


def travelled(content: RecordDict) -> RecordDict:
    return recorddict_from_proto(recorddict_to_proto(content))


def test_an_instruction_arrives_as_it_was_sent() -> None:
    adapter, spec, task = unpack_instruction(travelled(pack_instruction(ADAPTER, CODEC.spec(), TASK)))
    assert torch.equal(adapter, ADAPTER)
    assert task == TASK
    sent = CODEC.spec()
    assert (spec.kind, spec.version, dict(spec.fields)) == (sent.kind, sent.version, dict(sent.fields))
    assert spec.arrays.keys() == sent.arrays.keys()
    assert all(torch.equal(spec.arrays[name], sent.arrays[name]) for name in sent.arrays)


@pytest.mark.parametrize("trust", ["central", "distributed", "local"])
def test_every_term_arrives(trust: Any) -> None:
    terms = ReleaseTerms(7, 0.25, 3.0, trust, 4, normalize=False)
    content = travelled(pack_instruction(ADAPTER, CODEC.spec(), Task(0, terms, "x")))
    assert unpack_instruction(content)[2] == Task(0, terms, "x", raw=False)


def test_learned_weights_arrive() -> None:
    torch.manual_seed(0)
    codec = NeuralCodec(LAYOUT, CONV, option=2, scale=2.0, encoder=CONV.encoder(500, 2), decoder=CONV.decoder(500, 2))
    spec = unpack_instruction(travelled(pack_instruction(ADAPTER, codec.spec(), TASK)))[1]
    assert spec.arrays
    assert all(torch.equal(spec.arrays[name], value) for name, value in codec.spec().arrays.items())


def test_an_instruction_holds_the_encoder_and_nothing_of_the_decoder() -> None:
    torch.manual_seed(0)
    codec = NeuralCodec(LAYOUT, CONV, option=2, scale=2.0, encoder=CONV.encoder(500, 2), decoder=CONV.decoder(500, 2))
    content = pack_instruction(ADAPTER, codec.spec(), TASK)
    assert set(content) == {"adapter", "encoder", "encoder-arrays", "task"}
    assert all(name.startswith("array.encoder.") for name in content.array_records["encoder-arrays"])


VALUES = release(vectors(1, 32, 1)[0], TERMS, RandomSource.system())


def test_a_reply_holds_the_released_array_its_schema_and_round_and_nothing_else() -> None:
    content = travelled(pack_release(VALUES, 4))
    assert list(content) == ["release"]
    held = dict(content.config_records["release"])
    assert held == {"schema": 1, "round": 4, "dtype": "int32", "values": VALUES.astype("<i4").tobytes()}


def test_a_release_arrives_as_it_was_sent() -> None:
    received = unpack_release(travelled(pack_release(VALUES, 4)), 4, TERMS)
    assert np.array_equal(received, VALUES)
    assert received.dtype == VALUES.dtype


def changed(key: str, value: Any) -> RecordDict:
    content = pack_release(VALUES, 4)
    content.config_records["release"][key] = value
    return content


CLEAR = ReleaseTerms(32, 1.5, 0.0, "distributed", 9, normalize=True)
NAN = np.array([np.nan] + [0.0] * 31, dtype=np.float32)
BAD_RELEASES: dict[str, tuple[RecordDict, ReleaseTerms]] = {
    r'ConfigRecord "release" is missing': (RecordDict(), TERMS),
    r'"release" is missing; the message has \[.release.\]': (RecordDict({"release": ArrayRecord()}), TERMS),
    r"schema 2, this code speaks 1": (changed("schema", 2), TERMS),
    r"round 3, expected 4": (changed("round", 3), TERMS),
    r"a str, expected 32 values of int32": (changed("values", "x" * 128), TERMS),
    r"124 bytes of int32, expected 32 values of int32": (pack_release(VALUES[:31], 4), TERMS),
    r"128 bytes of float32, expected 32": (pack_release(VALUES.astype(np.float32), 4), TERMS),
    r"256 bytes of int64, expected 32": (pack_release(VALUES.astype(np.int64), 4), TERMS),
    r"64 bytes of int32, expected 32": (changed("values", VALUES.astype(np.int16).tobytes()), TERMS),
    r"NaN or Inf": (pack_release(NAN, 4), CLEAR),
    r"Inf$": (pack_release(NAN * 0 + np.inf, 4), CLEAR),
}


@pytest.mark.parametrize(("message", "case"), BAD_RELEASES.items(), ids=range(len(BAD_RELEASES)))
def test_malformed_replies_are_refused(message: str, case: tuple[RecordDict, ReleaseTerms]) -> None:
    content, terms = case
    with pytest.raises(WireError, match=message):
        unpack_release(travelled(content), 4, terms)


def test_terms_fit_the_types_used_above() -> None:
    assert (TERMS.dtype, CLEAR.dtype) == (np.int32, np.float32)


def drop(record: str, key: str = "") -> Callable[[RecordDict], None]:
    def mutate(content: RecordDict) -> None:
        if key:
            del content[record][key]  # type: ignore[attr-defined]
        else:
            del content[record]

    return mutate


def put(record: str, key: str, value: Any) -> Callable[[RecordDict], None]:
    def mutate(content: RecordDict) -> None:
        content[record][key] = value  # type: ignore[index]

    return mutate


def flat(values: np.ndarray) -> Callable[[RecordDict], None]:
    def mutate(content: RecordDict) -> None:
        content["adapter"] = ArrayRecord({"flat": Array(values)})

    return mutate


BAD_INSTRUCTIONS: dict[str, tuple[str, Callable[[RecordDict], None]]] = {
    "no task": (r'Record "task" is missing', drop("task")),
    "no adapter": (r"array \"adapter/flat\" is missing", drop("adapter")),
    "no encoder": (r'Record "encoder" is missing', drop("encoder")),
    "no encoder arrays": (r"encoder-arrays", drop("encoder-arrays")),
    "no kind": (r"kind", drop("encoder", "kind")),
    "other schema": (r"schema 0, this code speaks 1", put("task", "schema", 0)),
    "no schema": (r"schema None", drop("task", "schema")),
    "no clip norm": (r"clip-norm", drop("task", "clip-norm")),
    "no trust": (r"trust", drop("task", "trust")),
    "other trust": (r"trust must be central, distributed or local", put("task", "trust", "nobody")),
    "negative noise": (r"noise multiplier", put("task", "noise-multiplier", -1.0)),
    "zero clip norm": (r"clip norm", put("task", "clip-norm", 0.0)),
    "no round": (r"round", drop("task", "round")),
    "a round beyond numbers": (r"malformed", put("task", "round", math.inf)),
    "no steps": (r"steps", drop("task", "steps")),
    "steps backwards": (r"expected 0 to", put("task", "steps", -1)),
    "steps without end": (r"expected 0 to", put("task", "steps", 2**40)),
    "no share": (r"share", drop("task", "share")),
    "all of the examples": (r"a share from 0 up to, not including, 1", put("task", "share", 1.0)),
    "a share that is none": (r"a share from 0", put("task", "share", math.nan)),
    "an endless step": (r"a finite learning rate", put("task", "learning-rate", math.inf)),
    "a step that is none": (r"a finite learning rate", put("task", "learning-rate", math.nan)),
    "matrix": (r"expected a finite float32 vector", flat(np.zeros((2, 250), dtype=np.float32))),
    "doubles": (r"expected a finite float32 vector", flat(np.zeros(500))),
    "nan": (r"expected a finite float32 vector", flat(np.full(500, np.nan, dtype=np.float32))),
}


@pytest.mark.parametrize("name", BAD_INSTRUCTIONS)
def test_malformed_instructions_are_refused(name: str) -> None:
    message, mutate = BAD_INSTRUCTIONS[name]
    content = pack_instruction(ADAPTER, CODEC.spec(), TASK)
    mutate(content)
    with pytest.raises(WireError, match=message):
        unpack_instruction(travelled(content))


PROXY = quantize(ADAPTER, LAYOUT, 3)


def test_a_proxy_arrives_as_it_was_sent() -> None:
    content = travelled(pack_instruction(PROXY, CODEC.spec(), TASK))
    sent, spec, task = unpack_instruction(content)
    assert isinstance(sent, QuantizedAdapter)
    assert (sent.bits, sent.size) == (3, 500)
    assert torch.equal(received_adapter(sent, LAYOUT), PROXY.dequantize(LAYOUT))
    assert (spec.kind, task) == (CODEC.spec().kind, TASK)
    assert set(content) == {"adapter", "encoder", "encoder-arrays", "task"}


BAD_PROXIES: dict[str, tuple[str, Callable[[RecordDict], None]]] = {
    "no bits": (r"holds size: int.* expected bits: int", drop("adapter", "bits")),
    "bits as text": (r"bits: str", put("adapter", "bits", "3")),
    "a further field": (r"extra: int", put("adapter", "extra", 1)),
    "codes as numbers": (r"codes: list", put("adapter", "codes", [1, 2])),
    "bits beyond the range": (r"bits = 9, expected 1 to 8", put("adapter", "bits", 9)),
    "fewer bits": (r"expected 125 bytes", put("adapter", "bits", 2)),
    "size beyond the codes": (r"expected 432345564227567616 bytes", put("adapter", "size", 2**60)),
    "negative size": (r"size = -1", put("adapter", "size", -1)),
    "short codes": (r"expected 188 bytes", put("adapter", "codes", bytes(187))),
    "padding": (r"the last 4 bits are padding", put("adapter", "codes", b"\xff" * 188)),
    "torn ranges": (r"ranges are 15 bytes", put("adapter", "ranges", bytes(15))),
    "nan": (r"a range is not finite", put("adapter", "ranges", np.full(4, np.nan, "<f4").tobytes())),
    "inf": (r"a range is not finite", put("adapter", "ranges", np.array([0, np.inf] * 2, "<f4").tobytes())),
    "swapped": (r"ends are swapped", put("adapter", "ranges", np.array([1, 0] * 2, "<f4").tobytes())),
}


@pytest.mark.parametrize("name", BAD_PROXIES)
def test_malformed_proxies_are_refused(name: str) -> None:
    message, mutate = BAD_PROXIES[name]
    content = pack_instruction(PROXY, CODEC.spec(), TASK)
    mutate(content)
    with pytest.raises(WireError, match=message):
        unpack_instruction(travelled(content))


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


@pytest.mark.parametrize("content", [pack_release(VALUES, 4), RecordDict({"x": ConfigRecord({"y": "long" * 99})})])
def test_bytes_are_those_of_the_serialized_records(content: RecordDict) -> None:
    assert serialized_bytes(content) == len(recorddict_to_proto(content).SerializeToString())


def test_a_private_code_of_256_values_is_60_times_smaller_than_plain_lora() -> None:
    """Default adapter of the demo: rank 8 on four projections of four layers of width 96."""
    plain = serialized_bytes(pack_release(np.zeros(4 * 4 * 2 * 8 * 96, dtype=np.float32), 1))
    terms = ReleaseTerms(256, 1.0, 1.0, "distributed", 100, normalize=True)
    code = release(vectors(1, 256, 2)[0], terms, RandomSource.system())
    assert serialized_bytes(pack_release(code, 1)) * 60 <= plain
    assert plain > 98_304
