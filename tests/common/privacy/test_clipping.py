import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.privacy import clipping
from common.privacy.clipping import Clipped, NonFiniteError, clip


def norm(values: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(values.double()))


def test_500_random_vectors_end_within_the_bound_and_keep_their_direction() -> None:
    generator = np.random.default_rng(1)
    for _ in range(500):
        size, bound = int(generator.integers(1, 400)), float(10 ** generator.uniform(-3, 3))
        vector = torch.from_numpy(generator.standard_t(2, size) * 10 ** generator.uniform(-6, 6)).float()
        out = clip(vector, bound).values
        assert norm(out) <= bound * (1 + 1e-6)
        expected = vector.double() * min(1.0, bound / norm(vector))
        torch.testing.assert_close(out.double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e12, 1e30])
@pytest.mark.parametrize("normalize", [False, True])
def test_extreme_magnitudes_neither_overflow_nor_vanish(scale: float, normalize: bool) -> None:
    vector = torch.tensor([3.0, -4.0]) * scale
    out = clip(vector, 2.5, normalize=normalize).values
    expected = 2.5 if normalize or scale >= 1 else 5 * scale
    assert norm(out) == pytest.approx(expected, rel=1e-6)
    assert float(out[1] / out[0]) == pytest.approx(-4 / 3, rel=1e-6)


@pytest.mark.parametrize("normalize", [False, True])
def test_zero_scalar_and_empty_vectors_are_clipped_to_flat_ones(normalize: bool) -> None:
    assert torch.equal(clip(torch.zeros(7), 1.0, normalize=normalize).values, torch.zeros(7))
    assert torch.equal(clip(torch.tensor(-9.0), 2.0, normalize=normalize).values, torch.tensor([-2.0]))
    assert clip(torch.zeros(0), 1.0, normalize=normalize).values.shape == (0,)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_values_are_refused_by_name(bad: float) -> None:
    with pytest.raises(NonFiniteError, match="1 of 3 values"):
        clip(torch.tensor([1.0, bad, 0.0]), 1.0)


def test_an_unclipped_vector_cannot_be_passed_off_as_clipped() -> None:
    with pytest.raises(ValueError, match="not clipped"):
        Clipped(torch.tensor([1.0, 1.0]), 1.0)
    with pytest.raises(TypeError):
        Clipped(torch.tensor([0.1], dtype=torch.float64), 1.0)


@pytest.mark.parametrize("bound", [0.0, -1.0, math.nan, math.inf])
def test_a_useless_bound_is_refused(bound: float) -> None:
    with pytest.raises(ValueError, match="clip norm"):
        clip(torch.ones(2), bound)


@pytest.mark.parametrize("values", [[0.0, 0.0], [0.3, 0.4], [3.0, 4.0]])
def test_no_step_is_left_out_for_a_vector_that_is_short_or_zero(
    values: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the time of an answer told of its norm, and whether it was the zero code: ms for a million values."""
    taken: list[int] = []

    def count(vector: np.ndarray) -> float:
        taken.append(vector.size)
        return float(np.linalg.norm(vector))

    monkeypatch.setattr(clipping, "norm", count)
    clip(torch.tensor(values), 1.0)
    assert taken == [2, 2], "of the vector, and of what was clipped"


def test_the_input_is_left_as_it_was() -> None:
    vector = torch.full((3, 2), 9.0, requires_grad=True)
    out = clip(vector, 1.0).values
    assert float(vector.detach().sum()) == 54.0
    assert not out.requires_grad


FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.lists(FINITE, min_size=1, max_size=30), st.floats(1e-20, 1e20))
@settings(max_examples=200, deadline=None)
def test_any_float32_vector_ends_within_any_bound(values: list[float], bound: float) -> None:
    for normalize in (False, True):
        assert norm(clip(torch.tensor(values), bound, normalize=normalize).values) <= bound * (1 + 1e-6)
