"""The server's step on the flat adapter: Eq (6), W <- W - eta * G, with momentum or Adam as options.

A client that has the released sums takes the very same steps, so they must come out alike to the bit on every machine.
torch's own optimizers fuse a product with a sum where the processor can, and round once there and twice elsewhere, at
the ends of blocks whose number depends on the threads. Here every operation is one of IEEE 754's (product, sum,
quotient, root) on single values, each rounded by itself. The formulas are torch's (``torch.optim.SGD``, ``Adam``).
"""

import math

import torch
from torch import Tensor

_MOMENTUM = 0.9
_COUNT = "step"  # of Adam: how many it has taken
_FIRST, _SECOND, _EPSILON = 0.9, 0.999, 1e-8  # Adam's averages (Kingma and Ba, 2015)


class AdapterOptimizer:
    """The adapter (float32, shape ``[n]``) and what its optimizer remembers of earlier steps.

    Args:
        name: ``sgd``, ``momentum`` or ``adam`` (``ValueError`` for another).
        learning_rate: the step size eta.
        adapter: where it starts; copied.

    """

    def __init__(self, name: str, learning_rate: float, adapter: Tensor) -> None:
        if name not in _STEPS:
            raise ValueError(f"optimizer = {name!r}, expected one of {', '.join(_STEPS)}")
        self._name, self._take, self._rate = name, _STEPS[name], learning_rate
        self._adapter = adapter.detach().clone()
        self._averages: dict[str, Tensor] = {}

    @property
    def adapter(self) -> Tensor:
        """A copy of the current adapter (shape ``[n]``)."""
        return self._adapter.clone()

    def step(self, gradient: Tensor) -> Tensor:
        """Take one step along ``-gradient`` (shape ``[n]``) and return the new adapter."""
        self._adapter = self._adapter - self._take(gradient, self._rate, self._averages)
        return self.adapter

    def snapshot(self) -> Tensor:
        """Adapter and averages as one vector, shape ``[snapshot_size(name, n)]``: all that later steps follow from."""
        parts = [self._adapter, *(self._averages.get(name, self._zeros(name)) for name in _AVERAGES[self._name])]
        return torch.cat([part.reshape(-1) for part in parts])

    @property
    def snapshot_bytes(self) -> int:
        """Of a snapshot, in float32."""
        return 4 * snapshot_size(self._name, self._adapter.numel())

    def resume(self, snapshot: Tensor) -> None:
        """Take over a ``snapshot``; ``ValueError`` for a vector of another size."""
        count, names = self._adapter.numel(), _AVERAGES[self._name]
        if snapshot.shape != (snapshot_size(self._name, count),):
            raise ValueError(f"{snapshot.numel()} values, expected {snapshot_size(self._name, count)}")
        parts = snapshot.clone().split([count, *(self._zeros(name).numel() for name in names)])
        self._adapter = parts[0]
        self._averages = {
            name: part.reshape(self._zeros(name).shape) for name, part in zip(names, parts[1:], strict=True)
        }

    def _zeros(self, name: str) -> Tensor:
        return torch.zeros(()) if name == _COUNT else torch.zeros_like(self._adapter)

    def reset(self, adapter: Tensor) -> None:
        """Put the adapter back to an earlier value, keeping the optimizer's averages."""
        self._adapter = adapter.detach().clone()

    def tensors(self) -> dict[str, Tensor]:
        """Adapter and optimizer averages by name, for a checkpoint."""
        return {"adapter": self.adapter, **{f"optimizer.{name}": value for name, value in self._averages.items()}}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take over what ``tensors`` gave."""
        self.reset(tensors["adapter"])
        held = {name: value for name, value in tensors.items() if name.startswith("optimizer.")}
        self._averages = {name.removeprefix("optimizer."): value.clone() for name, value in held.items()}


def _sgd(gradient: Tensor, rate: float, _: dict[str, Tensor]) -> Tensor:
    return gradient * rate


def _momentum(gradient: Tensor, rate: float, averages: dict[str, Tensor]) -> Tensor:
    before = averages.get("momentum_buffer")
    averages["momentum_buffer"] = gradient.clone() if before is None else before * _MOMENTUM + gradient
    return averages["momentum_buffer"] * rate


def _adam(gradient: Tensor, rate: float, averages: dict[str, Tensor]) -> Tensor:
    nothing = torch.zeros_like(gradient)
    count = averages.get(_COUNT, torch.zeros(())) + 1
    first = averages.get("exp_avg", nothing) * _FIRST + gradient * (1 - _FIRST)
    second = averages.get("exp_avg_sq", nothing) * _SECOND + (gradient * gradient) * (1 - _SECOND)
    averages.update({_COUNT: count, "exp_avg": first, "exp_avg_sq": second})
    steps = int(count)
    deviation = second.sqrt() / math.sqrt(1 - _SECOND**steps) + _EPSILON
    return first / deviation * (rate / (1 - _FIRST**steps))


_STEPS = {"sgd": _sgd, "momentum": _momentum, "adam": _adam}
_AVERAGES = {"sgd": (), "momentum": ("momentum_buffer",), "adam": ("exp_avg", "exp_avg_sq", _COUNT)}


def snapshot_size(name: str, count: int) -> int:
    """Values of ``AdapterOptimizer.snapshot`` for an adapter of ``count`` values.

    >>> [snapshot_size(name, 10) for name in ("sgd", "momentum", "adam")]
    [10, 20, 31]
    """
    return count + sum(1 if average == _COUNT else count for average in _AVERAGES[name])
