"""The server's step is torch's, also after a restore."""

from typing import Any

import pytest
import torch

from common.config import ServerConfig
from server_app.rounds.optimizer import ServerOptimizer
from tests.support.tiny import vectors

START, *GRADIENTS = vectors(5, 30, 0)
TORCH: dict[str, Any] = {
    "sgd": lambda p: torch.optim.SGD([p], lr=0.3),
    "momentum": lambda p: torch.optim.SGD([p], lr=0.3, momentum=0.9),
    "adam": lambda p: torch.optim.Adam([p], lr=0.3),
}


def made(name: Any) -> ServerOptimizer:
    return ServerOptimizer(ServerConfig(optimizer=name, learning_rate=0.3), START)


@pytest.mark.parametrize("name", TORCH)
def test_steps_are_those_of_torch(name: str) -> None:
    parameter = torch.nn.Parameter(START.clone())
    expected = TORCH[name](parameter)
    optimizer = made(name)
    for gradient in GRADIENTS:
        parameter.grad = gradient.clone()
        expected.step()
        assert torch.equal(optimizer.step(gradient), parameter.detach())


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
    second = ServerOptimizer(ServerConfig(optimizer=name, learning_rate=0.3), torch.zeros(30))  # type: ignore[arg-type]
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
