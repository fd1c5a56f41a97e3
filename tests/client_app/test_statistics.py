"""Algorithm 1, client side, against hand-computed and independent figures."""

from math import sqrt

import numpy as np
import pytest
import torch

from client_app.statistics import gradient_statistics
from common.adapter import Layout
from common.config import StatisticsConfig
from tests.support.tiny import vectors

LAYOUT = Layout.of({"a": (2,), "b": (1, 2)})


def paper(**changes: float) -> StatisticsConfig:
    values = {"beta1": 0.5, "beta2": 0.75, "floor": 1e-6, "ceiling": 1e6, **changes}
    return StatisticsConfig(estimator="ema", private=False, mean=True, **values)


def test_the_moving_averages_of_the_paper_by_hand() -> None:
    """b1 = 1/2, b2 = 3/4; two gradients A1 = (2, 4), A2 = (6, 0) of tensor a; b's are (1, 1) twice.

    m1 = (1, 2), v1 = |(1, 2)|^2 = 5, s1^2 = 5/4; m2 = (3.5, 1), v2 = |(2.5, -1)|^2 = 7.25, s2^2 = 15/16 + 7.25/4.
    For b: m1 = .5, v1 = 2 * .25, s1^2 = 1/8; m2 = .75, v2 = 2 * .0625, s2^2 = 3/32 + 1/32.
    """
    gradients = [torch.tensor([2.0, 4.0, 1.0, 1.0]), torch.tensor([6.0, 0.0, 1.0, 1.0])]
    found = gradient_statistics(iter(gradients), LAYOUT, paper())
    assert found.mean.tolist() == pytest.approx([2.25, 0.75])
    assert found.std.tolist() == pytest.approx([sqrt(15 / 16 + 7.25 / 4), sqrt(1 / 8)])


def test_the_papers_squared_norm_is_clamped_before_it_is_averaged() -> None:
    """v1 of a is 5 -> 2, of b .5 -> 1: s^2 = 1/4 of that."""
    found = gradient_statistics(iter([torch.tensor([2.0, 4.0, 1.0, 1.0])]), LAYOUT, paper(floor=1.0, ceiling=2.0))
    assert found.std.square().tolist() == pytest.approx([0.5, 0.25])


def test_the_moments_are_those_of_numpy() -> None:
    layout = Layout.of({"a": (5, 6), "b": (7,)})
    gradients = 1e-3 * vectors(4, 37, 0) + torch.tensor([2e-3] * 30 + [0.0] * 7)
    found = gradient_statistics(iter(gradients), layout, StatisticsConfig())
    a, b = gradients[:, :30].double().numpy(), gradients[:, 30:].double().numpy()
    assert found.mean.tolist() == pytest.approx([a.mean(), b.mean()], rel=1e-4, abs=1e-8)
    assert found.std.tolist() == pytest.approx([np.std(a), np.std(b)], rel=1e-4)


def test_the_moments_variance_is_clamped() -> None:
    settings = StatisticsConfig(floor=1e-4, ceiling=1e-2)
    gradients = torch.tensor([[1.0, -1.0, 0.0, 0.0], [1.0, -1.0, 0.0, 0.0]])
    found = gradient_statistics(iter(gradients), LAYOUT, settings)
    assert found.std.square().tolist() == pytest.approx([1e-2, 1e-4])


def test_a_constant_gradient_has_no_spread() -> None:
    found = gradient_statistics(iter([torch.full((4,), 3.0)] * 2), LAYOUT, StatisticsConfig())
    assert found.mean.tolist() == [3.0, 3.0]
    assert found.std.square().tolist() == pytest.approx([1e-12, 1e-12])
