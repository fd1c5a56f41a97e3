"""The trained architectures: geometry, parameter counts, evaluation mode."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from common.adapter import Layout
from common.codecs import CONV, DENSE, EncoderSpec, NeuralCodec, build_encoder, conv_code_size
from common.codecs.conv import ConvDecoder, ConvEncoder, image_shape
from common.codecs.dense import start_orthonormal
from tests.support.codec_examples import LAYOUT, OTHERS, neural


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_the_llama_adapter_gives_the_published_image_code_and_parameter_counts() -> None:
    """LLaMA-7B, rank 8: image 4096 x 2048, code [64, 64, 32]; 246,785 and 246,698 parameters."""
    n = 2**23
    assert image_shape(n, 6) == (4096, 2048)
    assert conv_code_size(n, 6) == 64 * 64 * 32
    with torch.device("meta"):
        assert count(ConvEncoder(n, 6)) == 246_785
        assert count(ConvDecoder(n, 6)) == 246_698


@pytest.mark.parametrize("depth", range(1, 8))
def test_any_adapter_fits_its_image_with_little_padding(depth: int) -> None:
    unit = 2**depth
    for n in (unit**2, unit**2 + 1, 3 * unit**2, 24_576 * unit, 1_000_003 * depth):
        height, width = image_shape(n, depth)
        assert height % unit == width % unit == 0
        assert n <= height * width < n + unit * width
        assert conv_code_size(n, depth) * unit == height * width


@pytest.mark.parametrize(("n", "depth"), [(100, 1), (357, 2), (357, 4), (5000, 6)])
def test_networks_map_between_vectors_and_codes_of_the_stated_size(n: int, depth: int) -> None:
    codes = ConvEncoder(n, depth).eval()(torch.randn(3, n))
    assert codes.shape == (3, conv_code_size(n, depth))
    assert ConvDecoder(n, depth).eval()(codes).shape == (3, n)


def test_a_depth_that_does_not_suit_the_adapter_is_refused() -> None:
    for depth in (0, 5):
        with pytest.raises(ValueError, match=f"depth = {depth} does not suit 357 values; allowed: 1 to 4"):
            conv_code_size(357, depth)
    with pytest.raises(ValueError, match=r"codec.size = 358 is out of range; allowed: 1 to 357"):
        DENSE.code_size(357, 358)


def test_the_vector_is_read_row_by_row_and_padded_with_zeros_at_the_end() -> None:
    encoder = ConvEncoder(1000, 2).eval()
    height, width = image_shape(1000, 2)
    x, image = torch.randn(1000), torch.zeros(height, width)
    for index, value in enumerate(x):
        image[index // width, index % width] = value
    assert torch.equal(encoder(x[None])[0], encoder.layers(image[None, None]).flatten())


def test_encoding_does_not_depend_on_what_was_encoded_before() -> None:
    """Batch norms use their running statistics and do not move them."""
    x = torch.randn(LAYOUT.size, generator=torch.Generator().manual_seed(0))
    codec = neural(CONV, 2)
    before = codec.encode(x)
    codec.encode(1000 * x)
    assert torch.equal(codec.encode(x), before)


def test_the_spec_holds_the_encoders_weights_and_running_statistics_and_counts_their_bytes() -> None:
    encoder = ConvEncoder(LAYOUT.size, 2)
    buffers = sum(b.numel() for name, b in encoder.named_buffers() if "running" in name)
    assert OTHERS["conv"].spec().nbytes == 4 * (count(encoder) + buffers)
    assert OTHERS["dense"].spec().nbytes == 4 * 23 * (LAYOUT.size + 1)


def test_rebuilding_draws_no_random_numbers() -> None:
    specs = [OTHERS["conv"].spec(), OTHERS["dense"].spec()]
    before = torch.random.get_rng_state()
    for spec in specs:
        build_encoder(spec, LAYOUT)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_dense_training_starts_as_an_orthogonal_projection() -> None:
    encoder, decoder = DENSE.encoder(50, 7), DENSE.decoder(50, 7)
    start_orthonormal(encoder, decoder)
    codec = NeuralCodec(Layout.of({"a": (50,)}), DENSE, option=7, scale=2.0, encoder=encoder, decoder=decoder)
    x = torch.randn(50, generator=torch.Generator().manual_seed(0))
    once = codec.decode(codec.encode(x))
    assert torch.allclose(codec.decode(codec.encode(once)), once, atol=1e-5)
    assert torch.dot(once, x - once).abs() < 1e-4


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), float("nan")])
def test_a_scale_that_cannot_be_divided_by_is_refused(scale: float) -> None:
    spec = OTHERS["dense"].spec()
    bad = EncoderSpec(spec.kind, spec.version, {**spec.fields, "scale": scale}, spec.arrays)
    with pytest.raises(ValueError, match=r"scale = .* must be positive and finite"):
        build_encoder(bad, LAYOUT)


BAD_OPTIONS: dict[str, Callable[[], dict[str, int]]] = {
    "conv": lambda: {"depth": 9},
    "dense": lambda: {"size": 0},
}


@pytest.mark.parametrize("kind", BAD_OPTIONS)
def test_an_option_that_does_not_suit_is_refused_before_anything_is_built(kind: str) -> None:
    spec = OTHERS[kind].spec()
    bad = EncoderSpec(spec.kind, spec.version, {**spec.fields, **BAD_OPTIONS[kind]()}, spec.arrays)
    with pytest.raises(ValueError, match="allowed: 1 to"):
        build_encoder(bad, LAYOUT)
