"""Per-tensor statistics of gradients: all that Algorithm 1 lets the server know before round 1."""

from dataclasses import dataclass

import torch
from torch import Tensor

from common.adapter import Layout


class NonFiniteStatistics(ValueError):
    """A mean or a standard deviation is NaN or infinite."""


@dataclass(frozen=True, eq=False)
class GradientStatistics:
    """Mean ``m`` and standard deviation ``s`` of each LoRA factor's gradient (Algorithm 1, client steps 1-4).

    Both have shape ``[n_t]``: one value per tensor of the layout, in its order. Another shape, a value that
    is not finite (``NonFiniteStatistics``) or a negative deviation raises ``ValueError``.
    """

    mean: Tensor
    std: Tensor

    def __post_init__(self) -> None:
        if self.mean.dim() != 1 or self.mean.shape != self.std.shape:
            shapes = f"mean {tuple(self.mean.shape)}, std {tuple(self.std.shape)}"
            raise ValueError(f"statistics need one value per tensor, mean and std alike; got {shapes}")
        if not (torch.isfinite(self.mean).all() and torch.isfinite(self.std).all()):
            raise NonFiniteStatistics("statistics hold a value that is not finite")
        if (self.std < 0).any():
            raise ValueError(f"statistics hold a negative standard deviation: {self.std.min().item()}")

    def check(self, layout: Layout) -> None:
        """Raise ``ValueError`` unless there is one mean and one deviation per tensor of ``layout``."""
        if len(self.mean) != len(layout.tensors):
            raise ValueError(f"statistics of {len(self.mean)} tensors, but the adapter has {len(layout.tensors)}")
