"""What every codec promises, whatever its kind."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from common.adapter import Layout
from common.codecs import Codec, CodecState, EncoderSpec, build_encoder, codec_from_state
from tests.support.codec_examples import (
    CODECS,
    LAYOUT,
    OTHERS,
    SEEDED,
    STATISTICS,
)

pytestmark = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS.keys())
DTYPES = {torch.float32: torch.float32, torch.bfloat16: torch.float32, torch.float64: torch.float64}


def vector(seed: int = 0) -> Tensor:
    return torch.randn(LAYOUT.size, generator=torch.Generator().manual_seed(seed))


def code_for(codec: Codec, seed: int = 1) -> Tensor:
    return torch.randn(codec.size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("given", DTYPES)
def test_shapes_and_precision(codec: Codec, given: torch.dtype) -> None:
    code = codec.encode(vector().to(given))
    decoded = codec.decode(code_for(codec).to(given))
    assert (code.shape, code.dtype) == ((codec.size,), DTYPES[given])
    assert (decoded.shape, decoded.dtype) == ((codec.dim,), DTYPES[given])
    assert code.isfinite().all()
    assert decoded.isfinite().all()


def test_bfloat16_input_is_not_summed_in_bfloat16(codec: Codec) -> None:
    rounded = vector().bfloat16()
    assert torch.equal(codec.encode(rounded), codec.encode(rounded.float()))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_vector_that_is_not_finite_is_no_error(codec: Codec, value: float) -> None:
    """An error of the client would be an unnoised answer; the release makes a zero code of what is not finite."""
    assert not codec.encode(torch.full((LAYOUT.size,), value)).isfinite().all()


def test_encoding_and_decoding_leave_their_argument_alone(codec: Codec) -> None:
    x, c = vector(), code_for(codec)
    codec.encode(x).zero_()
    codec.decode(c).zero_()
    assert torch.equal(x, vector())
    assert torch.equal(c, code_for(codec))


def test_another_shape_is_refused_naming_both(codec: Codec) -> None:
    n, k = codec.dim, codec.size
    with pytest.raises(ValueError, match=rf"\({n + 1},\).*\({n},\)"):
        codec.encode(torch.zeros(n + 1))
    with pytest.raises(ValueError, match=rf"\(1, {n}\).*\({n},\)"):
        codec.encode(torch.zeros(1, n))
    with pytest.raises(ValueError, match=rf"\({k + 1},\).*\({k},\)"):
        codec.decode(torch.zeros(k + 1))


def test_encoder_rebuilt_from_its_spec_gives_identical_codes(codec: Codec) -> None:
    encoder = build_encoder(codec.spec(), LAYOUT)
    assert (encoder.dim, encoder.size) == (codec.dim, codec.size)
    assert torch.equal(encoder.encode(vector()), codec.encode(vector()))
    again = encoder.spec()
    assert again.fields == codec.spec().fields
    assert again.arrays.keys() == codec.spec().arrays.keys()


def test_a_trained_decoder_does_not_travel(codec: Codec) -> None:
    assert not any("decoder" in name for name in codec.spec().arrays)
    if codec in (OTHERS["dense"], OTHERS["conv"]):
        assert not hasattr(build_encoder(codec.spec(), LAYOUT), "decode")
        assert any("decoder" in name for name in codec.state().arrays)


def test_codec_rebuilt_from_its_state_is_identical(codec: Codec) -> None:
    rebuilt = codec_from_state(codec.state(), LAYOUT)
    assert torch.equal(rebuilt.encode(vector()), codec.encode(vector()))
    assert torch.equal(rebuilt.decode(code_for(codec)), codec.decode(code_for(codec)))


def test_a_rebuilt_codec_shares_no_memory_with_the_parcel(codec: Codec) -> None:
    state = codec.state()
    rebuilt = codec_from_state(state, LAYOUT)
    before = rebuilt.decode(code_for(codec))
    for array in state.arrays.values():
        array.zero_()
    assert torch.equal(rebuilt.decode(code_for(codec)), before)
    assert torch.equal(codec.decode(code_for(codec)), before)


def test_a_code_of_zeros_decodes_to_what_the_codec_was_told_and_nothing_else(codec: Codec) -> None:
    zeros = codec.decode(torch.zeros(codec.size))
    if codec in SEEDED.values():
        assert torch.equal(zeros, LAYOUT.expand(STATISTICS.mean))
    elif codec is OTHERS["identity"]:
        assert not zeros.any()
    elif codec is OTHERS["dense"]:
        assert torch.allclose(zeros, 3.0 * codec.state().arrays["decoder.bias"])
    else:
        codec.encode(100 * vector())
        assert torch.equal(codec.decode(torch.zeros(codec.size)), zeros)
        assert zeros.abs().max() <= 3.0


def test_redrawing_depends_on_seed_and_epoch_alone(codec: Codec) -> None:
    x = vector()
    if codec in OTHERS.values():
        assert codec.redraw(7) is codec
        return
    assert codec.redraw(0) is codec
    first, second = codec.redraw(1), codec.redraw(2)
    assert not torch.equal(first.encode(x), codec.encode(x))
    assert not torch.equal(first.encode(x), second.encode(x))
    assert torch.equal(second.redraw(1).encode(x), first.encode(x))
    assert torch.equal(second.redraw(0).encode(x), codec.encode(x))
    assert torch.equal(build_encoder(first.spec(), LAYOUT).encode(x), first.encode(x))


def test_a_parcel_for_another_adapter_kind_or_version_is_refused(codec: Codec) -> None:
    spec, state = codec.spec(), codec.state()
    bigger = Layout.of({"a": (codec.dim + 1,)})
    renamed = Layout.of({"a": (codec.dim,)})
    with pytest.raises(ValueError, match=f"{codec.dim} values.*{codec.dim + 1}"):
        build_encoder(spec, bigger)
    with pytest.raises(ValueError, match=f"{LAYOUT.digest}.*{renamed.digest}"):
        codec_from_state(state, renamed)
    with pytest.raises(ValueError, match="unknown codec kind 'zip'; known: conv, dense, identity, linear"):
        build_encoder(replace(spec, kind="zip"), LAYOUT)
    with pytest.raises(ValueError, match=f"has version 99, this code reads version {state.version}"):
        codec_from_state(replace(state, version=99), LAYOUT)


def test_a_parcel_with_something_missing_or_malformed_is_refused_by_name(codec: Codec) -> None:
    spec = codec.spec()
    for name in spec.fields:
        fields = {key: value for key, value in spec.fields.items() if key != name}
        with pytest.raises(ValueError, match=name):
            build_encoder(EncoderSpec(spec.kind, spec.version, fields, spec.arrays), LAYOUT)
    state = codec.state()
    for name, array in state.arrays.items():
        arrays = {**state.arrays, name: torch.zeros(*array.shape, 2)}
        with pytest.raises(ValueError, match=name):
            codec_from_state(CodecState(state.kind, state.version, state.fields, arrays), LAYOUT)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_and_cpu_agree(codec: Codec) -> None:
    on_gpu = codec_from_state(codec.state(), LAYOUT)
    code, decoded = on_gpu.encode(vector().cuda()), on_gpu.decode(code_for(codec).cuda())
    assert code.is_cuda
    assert torch.allclose(code.cpu(), codec.encode(vector()), atol=1e-4, rtol=1e-3)
    assert torch.allclose(decoded.cpu(), codec.decode(code_for(codec)), atol=1e-4, rtol=1e-3)
