"""The server's step on the flat adapter: Eq (6), W <- W - eta * G, with momentum or Adam as options."""

import torch
from torch import Tensor

from common.config import ServerConfig

_MOMENTUM = 0.9


class ServerOptimizer:
    """A torch optimizer over one flat parameter vector of shape ``[n]``."""

    def __init__(self, settings: ServerConfig, adapter: Tensor) -> None:
        self._parameter = torch.nn.Parameter(adapter.clone())
        self._optimizer = self._make(settings)

    def _make(self, settings: ServerConfig) -> torch.optim.Optimizer:
        if settings.optimizer == "adam":
            return torch.optim.Adam([self._parameter], lr=settings.learning_rate)
        momentum = _MOMENTUM if settings.optimizer == "momentum" else 0.0
        return torch.optim.SGD([self._parameter], lr=settings.learning_rate, momentum=momentum)

    @property
    def adapter(self) -> Tensor:
        """A copy of the current adapter (shape ``[n]``)."""
        return self._parameter.detach().clone()

    def step(self, gradient: Tensor) -> Tensor:
        """Take one step along ``-gradient`` (shape ``[n]``) and return the new adapter."""
        self._parameter.grad = gradient
        self._optimizer.step()
        return self.adapter

    def reset(self, adapter: Tensor) -> None:
        """Put the adapter back to an earlier value, keeping the optimizer's averages."""
        with torch.no_grad():
            self._parameter.copy_(adapter)

    def tensors(self) -> dict[str, Tensor]:
        """Adapter and optimizer averages by name, for a checkpoint."""
        state = self._optimizer.state[self._parameter]
        averages = {name: value for name, value in state.items() if isinstance(value, Tensor)}
        return {"adapter": self.adapter, **{f"optimizer.{name}": value for name, value in averages.items()}}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take over what ``tensors`` gave."""
        self.reset(tensors["adapter"])
        state = self._optimizer.state[self._parameter]
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                state[name.removeprefix("optimizer.")] = value.clone()
