"""The server's step is torch's but for rounding, value by value, also after a restore."""

from typing import Any

import pytest
import torch
from torch import Tensor

from common.optimizer import AdapterOptimizer, snapshot_size
from tests.support.tiny import vectors

START, *GRADIENTS = vectors(5, 30, 0)
TORCH: dict[str, Any] = {
    "sgd": lambda p: torch.optim.SGD([p], lr=0.3),
    "momentum": lambda p: torch.optim.SGD([p], lr=0.3, momentum=0.9),
    "adam": lambda p: torch.optim.Adam([p], lr=0.3),
}


def made(name: str, start: Tensor = START) -> AdapterOptimizer:
    return AdapterOptimizer(name, 0.3, start)


@pytest.mark.parametrize("name", TORCH)
def test_steps_are_those_of_torch(name: str) -> None:
    parameter = torch.nn.Parameter(START.clone())
    expected = TORCH[name](parameter)
    optimizer = made(name)
    for gradient in GRADIENTS:
        parameter.grad = gradient.clone()
        expected.step()
        torch.testing.assert_close(optimizer.step(gradient), parameter.detach(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", TORCH)
def test_every_value_is_stepped_by_itself(name: str) -> None:
    """So blocks, vector units and threads change no bit: a client's adapter is the server's."""
    whole = made(name)
    for gradient in GRADIENTS:
        whole.step(gradient)
    for place in range(len(START)):
        alone = made(name, START[place : place + 1])
        for gradient in GRADIENTS:
            alone.step(gradient[place : place + 1])
        assert torch.equal(alone.adapter, whole.adapter[place : place + 1])


def test_another_name_is_refused() -> None:
    with pytest.raises(ValueError, match="expected one of sgd, momentum, adam"):
        made("lion")


def test_plain_sgd_is_equation_6() -> None:
    torch.testing.assert_close(made("sgd").step(GRADIENTS[0]), START - 0.3 * GRADIENTS[0])


@pytest.mark.parametrize("name", TORCH)
def test_a_restored_optimizer_continues_identically(name: str) -> None:
    whole, first = made(name), made(name)
    for gradient in GRADIENTS[:2]:
        whole.step(gradient)
        first.step(gradient)
    saved = {key: value.clone() for key, value in first.tensors().items()}
    first.step(GRADIENTS[3])  # what was saved does not move with the optimizer
    second = made(name, torch.zeros(30))
    second.restore(saved)
    for gradient in GRADIENTS[2:]:
        assert torch.equal(whole.step(gradient), second.step(gradient))


def test_the_given_adapter_is_not_changed_and_the_returned_one_is_a_copy() -> None:
    before = START.clone()
    optimizer = made("adam")
    optimizer.step(GRADIENTS[0]).fill_(7.0)
    optimizer.adapter.fill_(7.0)
    assert torch.equal(START, before)
    assert not (optimizer.adapter == 7.0).any()


def test_reset_puts_the_adapter_back() -> None:
    optimizer = made("momentum")
    before = optimizer.adapter
    optimizer.step(GRADIENTS[0])
    optimizer.reset(before)
    assert torch.equal(optimizer.adapter, START)


@pytest.mark.parametrize("name", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("steps", [0, 1, 5])
def test_a_snapshot_is_all_that_later_steps_follow_from(name: str, steps: int) -> None:
    gradients = torch.randn(steps + 3, 7, generator=torch.Generator().manual_seed(1))
    one, other = (AdapterOptimizer(name, 0.1, torch.full((7,), value)) for value in (1.0, 2.0))
    for gradient in gradients[:steps]:
        one.step(gradient)
    assert one.snapshot().shape == (snapshot_size(name, 7),)
    other.resume(one.snapshot())
    for gradient in gradients[steps:]:
        assert torch.equal(one.step(gradient), other.step(gradient))
    with pytest.raises(ValueError, match="values, expected"):
        other.resume(torch.zeros(8))
