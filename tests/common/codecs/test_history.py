"""The history prior's codec: orthonormal rows, the first ones along the history."""

import pytest
import torch
from torch import Tensor

from common.codecs import HistoryCodec
from tests.support.codec_examples import HISTORIES, LAYOUT, led, past
from tests.support.false_alarms import beyond, statistical

every = pytest.mark.parametrize("codec", HISTORIES.values(), ids=HISTORIES.keys())


def rows_of(codec: HistoryCodec) -> Tensor:
    """The implied k x n matrix in float64."""
    return torch.stack([codec.decode(unit) for unit in torch.eye(codec.size, dtype=torch.float64)])


def directions(history: Tensor, *tensors: int) -> Tensor:
    """The history restricted to each of some tensors, at unit norm, as rows."""
    rows = torch.zeros(len(tensors), LAYOUT.size, dtype=torch.float64)
    for row, index in zip(rows, tensors, strict=True):
        piece = LAYOUT.tensors[index]
        part = history[piece.offset : piece.end].double()
        row[piece.offset : piece.end] = part / part.norm()
    return rows


@every
def test_rows_are_orthonormal(codec: HistoryCodec) -> None:
    rows = rows_of(codec)
    assert (rows @ rows.T - torch.eye(codec.size)).abs().max() < 1e-12


@every
def test_encoding_is_the_adjoint_of_decoding(codec: HistoryCodec) -> None:
    x = torch.randn(codec.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(codec.encode(x), rows_of(codec) @ x, atol=1e-12)


@pytest.mark.parametrize(("rows", "tensors"), [(0, ()), (1, (3,)), (3, (0, 3, 4)), (22, (0, 2, 3, 4))])
def test_the_first_rows_are_the_history_where_it_is_strongest(rows: int, tensors: tuple[int, ...]) -> None:
    """One tensor has no history and never gets a row, however many are allowed."""
    codec, wanted = led(past(), rows), directions(past(), *tensors)
    found = rows_of(codec)[: len(tensors)]
    assert torch.allclose((found * wanted).sum(1).abs(), torch.ones(len(tensors), dtype=torch.float64), atol=1e-12)


@statistical(beyond(5), "seeded")
def test_the_other_rows_are_a_fair_draw_of_the_complement() -> None:
    """Mean captured energy (k-m)/(n-m) of a unit vector beside the history: 2,000 draws, 5 standard errors."""
    codec, wanted = led(past()), directions(past(), 0, 3, 4)
    x = torch.randn(LAYOUT.size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x -= wanted.T @ (wanted @ x)
    energies = torch.stack([codec.redraw(epoch).encode(x / x.norm()).square().sum() for epoch in range(2000)])
    assert abs(energies.mean() - 20 / (LAYOUT.size - 3)) < 5 * energies.std() / 2000**0.5


def test_the_history_is_a_decayed_sum_of_steps_and_survives_a_redraw() -> None:
    steps = [past(seed) for seed in (1, 2, 3)]
    codec = led(torch.zeros(LAYOUT.size))
    for step in steps:
        codec = codec.redraw(4).advance(step, 0.5)
    expected = 0.25 * steps[0] + 0.5 * steps[1] + steps[2]
    assert torch.allclose(codec.spec().arrays["history"], expected, atol=1e-6)
    assert codec.spec().fields["epoch"] == 4


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_a_tensor_without_a_direction_gets_no_row(value: float) -> None:
    """A model that diverged must reach the strategy's brake, not an error of the codec."""
    history = past()
    history[LAYOUT.tensors[3].offset] = value
    if value == 0:
        history[LAYOUT.tensors[3].offset : LAYOUT.tensors[3].end] = 0
    rows, wanted = rows_of(led(history)), directions(past(), 0, 2, 4)
    assert torch.allclose((rows[:3] * wanted).sum(1).abs(), torch.ones(3, dtype=torch.float64), atol=1e-12)


def test_a_history_of_tiny_values_is_as_good_as_any() -> None:
    rows = rows_of(led(past() * 1e-30))
    assert (rows @ rows.T - torch.eye(23)).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("rows", "size", "message"),
    [(23, 23, "rows = 23"), (-1, 23, "rows = -1"), (3, 0, r"codec\.size = 0"), (3, 358, "358")],
)
def test_what_does_not_fit_is_refused_by_name(rows: int, size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        led(past(), rows, size=size)
