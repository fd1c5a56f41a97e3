"""FEDLPP's quantizer: levels, packing, idempotence, what is refused."""

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from common.adapter import Layout
from common.proxy import QuantizedAdapter, pack, packed_bytes, quantize, unpack
from tests.support.false_alarms import beyond, statistical
from tests.support.tiny import vectors

LAYOUT = Layout.of({"a": (10, 20), "b": (300,), "c": (1,), "d": (7,)})
every_width = pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])


def example(seed: int = 0) -> Tensor:
    """Tensors of different scales, one that is constant and one that is zero."""
    vector = vectors(1, LAYOUT.size, seed)[0]
    vector[200:500] = 1e-3 * vector[200:500] + 5e-3
    vector[501:] = 0
    return vector


def of(bits: int, seed: int | None = None) -> tuple[Tensor, Tensor]:
    vector = example()
    return vector, quantize(vector, LAYOUT, bits, seed).dequantize(LAYOUT)


def test_two_bits_of_a_known_tensor() -> None:
    layout = Layout.of({"a": (6,)})
    vector = torch.tensor([-1.0, -0.7, -0.6, 0.3, 1.4, 2.0])
    sent = quantize(vector, layout, 2)
    assert unpack(sent.codes, 6, 2).tolist() == [0, 0, 0, 1, 2, 3]
    assert sent.dequantize(layout).tolist() == pytest.approx([-1, -1, -1, 0, 1, 2], abs=1e-6)
    assert sent.codes.tolist() == [0b01_00_00_00, 0b1110]
    assert sent.ranges.tolist() == [[-1, 2]]


@every_width
def test_every_value_goes_to_the_nearest_of_at_most_two_to_the_w_levels(bits: int) -> None:
    vector, proxy = of(bits)
    for piece in LAYOUT.tensors:
        values, chosen = vector[piece.offset : piece.end].double(), proxy[piece.offset : piece.end].double()
        table = torch.linspace(float(values.min()), float(values.max()), 2**bits, dtype=torch.float64)
        best = (values[:, None] - table).abs().min(dim=1).values
        assert ((values - chosen).abs() - best).abs().max() <= 1e-6 * float(values.abs().max())
        assert len(chosen.unique()) <= 2**bits


@every_width
@pytest.mark.parametrize("seed", [None, 3])
def test_quantizing_a_proxy_again_changes_nothing(bits: int, seed: int | None) -> None:
    _, proxy = of(bits, seed)
    again = quantize(proxy, LAYOUT, bits, None if seed is None else seed + 1)
    assert torch.equal(again.dequantize(LAYOUT), proxy)


def test_the_error_falls_with_every_bit() -> None:
    errors = [float((of(bits)[1] - of(bits)[0]).norm()) for bits in range(1, 9)]
    assert all(later < 0.8 * earlier for earlier, later in pairwise(errors))


@statistical(beyond(6, 40), "seeded")
def test_random_rounding_is_unbiased_and_a_function_of_its_seed() -> None:
    """4,000 draws: a mean is off by 6 standard errors with probability 1e-6 over all values."""
    layout = Layout.of({"a": (40,)})
    vector = vectors(1, 40, 1)[0]
    draws = torch.stack([quantize(vector, layout, 2, seed=seed).dequantize(layout) for seed in range(4000)]).double()
    step = float((vector.max() - vector.min()) / 3)
    assert (draws.mean(0) - vector).abs().max() < 6 * 0.5 * step / math.sqrt(4000)
    assert ((draws - vector).abs() < step * (1 + 1e-6)).all(), "one of the two levels around the value"
    assert torch.equal(quantize(vector, layout, 2, seed=5).codes, quantize(vector, layout, 2, seed=5).codes)
    assert not torch.equal(quantize(vector, layout, 2, seed=5).codes, quantize(vector, layout, 2, seed=6).codes)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 8), st.integers(1, 70), st.integers(0, 2**32 - 1))
def test_packing_is_exact_and_as_small_as_can_be(bits: int, size: int, seed: int) -> None:
    numbers = torch.randint(0, 2**bits, (size,), generator=torch.Generator().manual_seed(seed))
    packed = pack(numbers, bits)
    assert torch.equal(unpack(packed, size, bits), numbers)
    assert len(packed) == packed_bytes(size, bits) == math.ceil(size * bits / 8)
    expected = sum(int(number) << (bits * index) for index, number in enumerate(numbers))
    assert int.from_bytes(bytes(packed.tolist()), "little") == expected


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_the_payload_is_32_over_w_times_smaller_and_two_floats_a_tensor(bits: int) -> None:
    sent = quantize(example(), LAYOUT, bits)
    assert sent.nbytes == math.ceil(LAYOUT.size * bits / 8) + 8 * len(LAYOUT.tensors)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_refused(value: float) -> None:
    vector = example()
    vector[250] = value
    with pytest.raises(ValueError, match="not finite"):
        quantize(vector, LAYOUT, 2)


def test_extreme_values_stay_finite() -> None:
    vector = example() / example().abs().max() * 3e38
    assert torch.isfinite(quantize(vector, LAYOUT, 3).dequantize(LAYOUT)).all()
    tiny = torch.full((LAYOUT.size,), 1e-45)
    assert torch.equal(quantize(tiny, LAYOUT, 3).dequantize(LAYOUT), tiny)


GOOD = quantize(example(), LAYOUT, 3)
BAD: list[tuple[dict[str, Any], str]] = [
    ({"bits": 0}, "bits = 0, expected 1 to 8"),
    ({"bits": 9}, "bits = 9, expected 1 to 8"),
    ({"bits": 2}, "expected 127 bytes"),
    ({"size": 0}, "size = 0"),
    ({"size": 2**60}, "expected .* bytes"),
    ({"codes": GOOD.codes[:-1]}, "expected 191 bytes"),
    ({"codes": GOOD.codes.int()}, "torch.int32"),
    ({"codes": torch.cat([GOOD.codes[:-1], torch.tensor([255], dtype=torch.uint8)])}, "last 4 bits are padding"),
    ({"ranges": GOOD.ranges.double()}, "torch.float64"),
    ({"ranges": GOOD.ranges.flatten()}, "of shape"),
    ({"ranges": GOOD.ranges * math.nan}, "not finite"),
    ({"ranges": GOOD.ranges.flip(1)}, "swapped"),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=range(len(BAD)))
def test_what_is_inconsistent_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(GOOD, **changes)


@pytest.mark.parametrize("shapes", [{"a": (10, 20), "b": (308,)}, {"a": (9, 20), "b": (300,), "c": (1,), "d": (7,)}])
def test_an_adapter_of_another_layout_is_refused(shapes: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="508 values in 4 tensors, but the adapter has"):
        GOOD.dequantize(Layout.of(shapes))


def test_the_example_is_a_quantized_adapter() -> None:
    assert isinstance(GOOD, QuantizedAdapter)
