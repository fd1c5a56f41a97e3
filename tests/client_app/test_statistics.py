"""Algorithm 1, client side, against hand-computed and independent figures."""

import numpy as np
import pytest
import torch

from client_app.statistics import gradient_statistics
from common.adapter import Layout
from common.config import StageOneConfig
from tests.support.tiny import vectors

LAYOUT = Layout.of({"a": (2,), "b": (1, 2)})


PAPER = StageOneConfig(estimator="ema", private=False)


def test_the_moving_averages_of_the_paper_by_hand() -> None:
    """b1 = .99, b2 = .9; in units of 1e-3 tensor a has A1 = (2, 4), A2 = (6, 0), b has (10, 10) twice.

    m1 = (.02, .04), v1 = |(1.98, 3.96)|^2 = 19.602; m2 = (.0798, .0396), v2 = |(5.9202, -.0396)|^2 = 35.05034.
    s^2 = .9 * .1 * v1 + .1 * v2. For b: m1 = .1, v1 = 2 * 9.9^2 = 196.02; m2 = .199, v2 = 2 * 9.801^2 = 192.1192.
    """
    gradients = [1e-3 * torch.tensor([2.0, 4.0, 10.0, 10.0]), 1e-3 * torch.tensor([6.0, 0.0, 10.0, 10.0])]
    found = gradient_statistics(iter(gradients), LAYOUT, PAPER)
    assert found.mean.tolist() == pytest.approx([0.0597e-3, 0.199e-3])
    assert found.std.square().tolist() == pytest.approx([5.269214e-6, 36.85372e-6], rel=1e-5)


def test_the_papers_squared_norm_is_clamped_before_it_is_averaged() -> None:
    """v1 of a is above 1e-3, of b below 1e-5: s^2 = 1/10 of these."""
    found = gradient_statistics(iter([torch.tensor([2.0, 4.0, 1e-4, 1e-4])]), LAYOUT, PAPER)
    assert found.std.square().tolist() == pytest.approx([1e-4, 1e-6])


def test_the_moments_are_those_of_numpy() -> None:
    layout = Layout.of({"a": (5, 6), "b": (7,)})
    gradients = 1e-3 * vectors(4, 37, 0) + torch.tensor([2e-3] * 30 + [0.0] * 7)
    found = gradient_statistics(iter(gradients), layout, StageOneConfig())
    a, b = gradients[:, :30].double().numpy(), gradients[:, 30:].double().numpy()
    assert found.mean.tolist() == pytest.approx([a.mean(), b.mean()], rel=1e-4, abs=1e-8)
    assert found.std.tolist() == pytest.approx([np.std(a), np.std(b)], rel=1e-4)


def test_the_moments_variance_is_clamped() -> None:
    gradients = torch.tensor([[2.0, -2.0, 0.0, 0.0], [2.0, -2.0, 0.0, 0.0]])
    found = gradient_statistics(iter(gradients), LAYOUT, StageOneConfig())
    assert found.std.square().tolist() == pytest.approx([1.0, 1e-12])


def test_a_constant_gradient_has_no_spread() -> None:
    found = gradient_statistics(iter([torch.full((4,), 3.0)] * 2), LAYOUT, StageOneConfig())
    assert found.mean.tolist() == [3.0, 3.0]
    assert found.std.square().tolist() == pytest.approx([1e-12, 1e-12])
