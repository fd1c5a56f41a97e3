"""Rows that a prior has chosen: what encode and decode compute, and how the rows travel."""

import pytest
import torch
from torch import Tensor

from common.codecs import BlockRows, EncoderSpec, Rows, SubspaceCodec, TuckerRows, build_encoder
from common.codecs.rows import STORED_SCALE
from tests.support.codec_examples import (
    LAYOUT,
    ROWS,
    SUBSPACES,
    Parabolas,
    blocks,
    gaussian,
    orthonormal,
    subspace,
    tangents,
    tucker,
)

every_row = pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS.keys())
every = pytest.mark.parametrize("codec", SUBSPACES.values(), ids=SUBSPACES.keys())


def matrix(codec: SubspaceCodec) -> Tensor:
    """What decode applies, as k rows of n values in float64."""
    return torch.stack([codec.decode(unit) for unit in torch.eye(codec.size, dtype=torch.float64)])


@every
def test_encoding_is_the_adjoint_of_decoding(codec: SubspaceCodec) -> None:
    x = gaussian(codec.dim, seed=0).double()
    assert torch.allclose(codec.encode(x), matrix(codec) @ x, atol=3e-5, rtol=1e-5)


@every
def test_a_scale_multiplies_its_value_in_the_code_and_its_direction_in_the_step(codec: SubspaceCodec) -> None:
    scales = torch.linspace(2.0, 0.5, codec.size).double()
    rows = matrix(codec) / scales[:, None]
    x = gaussian(codec.dim, seed=0).double()
    assert torch.allclose(codec.encode(x), scales * (rows @ x), atol=3e-5, rtol=1e-5)
    assert torch.allclose(rows @ rows.T, torch.eye(5).double(), atol=2e-3)  # float16 on the wire


@every_row
def test_some_of_the_rows_are_the_same_rows_and_weigh_less(rows: Rows) -> None:
    chosen = torch.tensor([True, False, True, True, False])
    some, x = rows.only(chosen).bound(Parabolas()), gaussian(LAYOUT.size, seed=2)
    torch.testing.assert_close(some.project(x), rows.bound(Parabolas()).project(x)[chosen])
    assert sum(array.nbytes for array in some.arrays().values()) < sum(array.nbytes for array in rows.arrays().values())


def test_block_rows_touch_their_own_coordinates_only() -> None:
    basis = matrix(subspace(blocks()))
    assert not basis[:3, 128:].any()
    assert not basis[3:, :128].any()
    assert not basis[3:, 320:].any()
    assert basis[:3, :128].any(1).all()


def test_tucker_rows_are_products_of_sides_and_core() -> None:
    """Against the plain formula, tensor by tensor; B's long side is its first, so its core is transposed."""
    rows, x = tucker(), gaussian(LAYOUT.size, seed=1).double()
    arrays = {name: value.double() / STORED_SCALE for name, value in rows.arrays().items()}
    sides = arrays["sides"].split([2 * 16, 2 * 16, 2 * 24, 2 * 24, 2 * 37])
    cores = []
    for piece, side in zip(LAYOUT.tensors, sides, strict=True):
        tensor = x[piece.offset : piece.end].view(piece.shape)
        tensor = tensor.T if piece.name.endswith("b") else tensor
        cores.append((tensor.reshape(-1, max(piece.shape)) @ side.view(2, -1).T).flatten())
    assert torch.allclose(rows.project(x), arrays["core"] @ torch.cat(cores))


def test_stored_rows_travel_in_two_bytes_a_value() -> None:
    spec = subspace(blocks()).spec()
    assert spec.arrays["basis"].dtype == torch.float16
    assert spec.nbytes == 2 * (3 * 128 + 2 * 192) + 2 * 3 * 8 + 5 * 4


def test_tangent_rows_travel_without_any_row() -> None:
    """Eight losses of two sequences of three tokens: their number, not that of the rows, decides the size."""
    arrays = subspace(tangents()).spec().arrays
    shapes = {name: tuple(value.shape) for name, value in arrays.items()}
    assert shapes == {
        "scales": (5,), "point": (LAYOUT.size,), "tokens": (8, 2, 3), "spans": (8, 2, 2), "weights": (8, 5),
    }  # fmt: skip


def test_rows_made_of_a_models_gradients_need_the_model() -> None:
    unbound = build_encoder(subspace(tangents()).spec(), LAYOUT)
    with pytest.raises(RuntimeError, match="bind them to the model"):
        unbound.encode(torch.zeros(LAYOUT.size))
    assert unbound.bound(Parabolas()).encode(torch.zeros(LAYOUT.size)).shape == (5,)


@every_row
def test_rows_without_need_of_a_model_are_left_as_they_are(rows: Rows) -> None:
    codec = subspace(rows)
    assert (codec.bound(Parabolas()) is codec) == (rows.name != "tangents")


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        (torch.ones(4), r"'scales' has shape \(4,\) for 5 rows"),
        (torch.ones(6), r"'scales' has shape \(6,\) for 5 rows"),
        (torch.tensor([1.0, 1, 1, 1, -1]), "negative number or nan"),
        (torch.tensor([1.0, 1, 1, 1, torch.nan]), "negative number or nan"),
    ],
)
def test_scales_that_do_not_fit_are_refused(scales: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SubspaceCodec(LAYOUT, blocks(), scales)


def test_rows_that_do_not_fit_the_adapter_are_refused() -> None:
    with pytest.raises(ValueError, match=r"array 'blocks' does not fit an adapter of 357 values"):
        BlockRows(LAYOUT, torch.tensor([[300, 58, 1]]), torch.zeros(58))
    with pytest.raises(ValueError, match=r"array 'basis' has shape \(57,\), expected \(114,\)"):
        BlockRows(LAYOUT, torch.tensor([[300, 57, 2]]), torch.zeros(57))
    with pytest.raises(ValueError, match=r"array 'sides' has shape \(3,\), expected \(234,\)"):
        TuckerRows(LAYOUT, 2, torch.zeros(3), torch.zeros(5, 34))
    sides = torch.cat([orthonormal(2, side, 0).flatten() for side in (16, 16, 24, 24, 37)])
    with pytest.raises(ValueError, match=r"array 'core' has shape \(5, 33\), not \(k, 34\)"):
        TuckerRows(LAYOUT, 2, sides, torch.zeros(5, 33))
    spec = subspace(tangents()).spec()
    arrays = {**spec.arrays, "weights": torch.zeros(7, 5)}
    with pytest.raises(ValueError, match="'point', 'spans', 'weights' have shapes"):
        build_encoder(EncoderSpec(spec.kind, spec.version, spec.fields, arrays), LAYOUT)


def test_rows_of_an_unknown_name_are_refused() -> None:
    state = subspace(blocks()).state()
    with pytest.raises(ValueError, match="field 'rows' is 'columns', expected blocks, tucker or tangents"):
        build_encoder(EncoderSpec(state.kind, state.version, {**state.fields, "rows": "columns"}, state.arrays), LAYOUT)
