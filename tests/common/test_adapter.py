"""The flat view of an adapter."""

import pytest
import torch

from common.adapter import Layout

SHAPES = {"b.lora_A": (2, 3), "a.lora_B": (4, 2), "a.lora_A": (2, 5), "c": ()}
LAYOUT = Layout.of(SHAPES)


def test_the_order_is_that_of_the_names_whatever_the_order_of_insertion() -> None:
    backwards = Layout.of(dict(reversed(SHAPES.items())))
    assert backwards == LAYOUT
    assert backwards.digest == LAYOUT.digest
    assert [piece.name for piece in LAYOUT.tensors] == ["a.lora_A", "a.lora_B", "b.lora_A", "c"]


def test_pieces_lie_end_to_end() -> None:
    assert [(piece.offset, piece.end) for piece in LAYOUT.tensors] == [(0, 10), (10, 18), (18, 24), (24, 25)]
    assert LAYOUT.size == 25
    assert Layout.of({}).size == 0


def test_flatten_puts_each_tensor_at_its_offset_and_unflatten_is_its_inverse() -> None:
    tensors = {name: torch.randn(shape) for name, shape in SHAPES.items()}
    flat = LAYOUT.flatten(tensors)
    assert flat.shape == (25,)
    assert torch.equal(flat[10:18].view(4, 2), tensors["a.lora_B"])
    restored = LAYOUT.unflatten(flat)
    assert restored.keys() == tensors.keys()
    assert all(torch.equal(restored[name], tensors[name]) for name in tensors)


def test_flatten_detaches_and_casts_to_float32() -> None:
    tensors = {name: torch.ones(shape, dtype=torch.float64, requires_grad=True) for name, shape in SHAPES.items()}
    flat = LAYOUT.flatten(tensors)
    assert flat.dtype == torch.float32
    assert not flat.requires_grad


def test_flatten_misses_no_tensor() -> None:
    tensors = {name: torch.zeros(shape) for name, shape in SHAPES.items() if name != "c"}
    with pytest.raises(KeyError, match="c"):
        LAYOUT.flatten(tensors)


def test_unflatten_gives_views() -> None:
    flat = torch.zeros(25)
    LAYOUT.unflatten(flat)["b.lora_A"][1, 2] = 7
    assert flat[23] == 7


@pytest.mark.parametrize("vector", [torch.zeros(24), torch.zeros(26), torch.zeros(1, 25)])
def test_unflatten_refuses_another_size(vector: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"expected \(25,\)"):
        LAYOUT.unflatten(vector)


def test_expand_repeats_each_value_over_its_tensor() -> None:
    expanded = LAYOUT.expand(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert expanded.tolist() == [1.0] * 10 + [2.0] * 8 + [3.0] * 6 + [4.0]


@pytest.mark.parametrize("change", [{"c": (1,)}, {"a.lora_A": (5, 2)}, {"d": (1,)}])
def test_the_digest_changes_with_every_name_and_shape(change: dict[str, tuple[int, ...]]) -> None:
    assert Layout.of(SHAPES | change).digest != LAYOUT.digest


def test_the_digest_changes_with_a_name() -> None:
    renamed = {name.replace("lora_A", "lora_C"): shape for name, shape in SHAPES.items()}
    assert Layout.of(renamed).digest != LAYOUT.digest
