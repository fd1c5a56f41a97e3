"""Algorithm 1, client side: per-tensor mean and standard deviation of the LoRA gradients over a few local steps.

The paper keeps exponential moving averages of each factor's mean m and squared deviation v (steps 1-3), once for A and
once for B (step 4), and sends the results (step 5). Two estimators are offered:

- ``ema`` follows the printed formulas: m <- b1 m + (1-b1) A, v = clamp(||A - m||^2, h1, h2), s^2 <- b2 s^2 + (1-b2) v.
  There v is a squared norm although s is used as the std of an element.
- ``moment`` (default) averages the first two moments per element over the steps, which is what a std is.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from common.adapter import Layout
from common.codecs.statistics import GradientStatistics
from common.config import StageOneConfig

_BETA_MEAN, _BETA_VARIANCE = 0.99, 0.9  # b1 and b2 of the paper


def gradient_statistics(gradients: Iterable[Tensor], layout: Layout, settings: StageOneConfig) -> GradientStatistics:
    """Mean and std of every LoRA factor over the given flat gradients (each of shape ``[n]``)."""
    if settings.estimator == "ema":
        return _moving_averages(gradients, layout, settings)
    return _moments(gradients, layout, settings)


def _moving_averages(gradients: Iterable[Tensor], layout: Layout, settings: StageOneConfig) -> GradientStatistics:
    """Algorithm 1, steps 1-4, as printed; m is kept per element and reported as its mean over the tensor."""
    mean = torch.zeros(layout.size)
    variance = torch.zeros(len(layout.tensors))
    for gradient in gradients:
        factors = gradient.cpu()
        mean = _BETA_MEAN * mean + (1 - _BETA_MEAN) * factors
        squared_norm = _per_tensor(factors - mean, layout).square_sums
        clamped = squared_norm.clamp(*settings.variances)
        variance = _BETA_VARIANCE * variance + (1 - _BETA_VARIANCE) * clamped
    return GradientStatistics(_per_tensor(mean, layout).means, variance.sqrt())


def _moments(gradients: Iterable[Tensor], layout: Layout, settings: StageOneConfig) -> GradientStatistics:
    """Per-element mean and variance of every tensor, averaged over the steps."""
    first, second, count = torch.zeros(len(layout.tensors)), torch.zeros(len(layout.tensors)), 0
    sizes = torch.tensor([float(piece.size) for piece in layout.tensors])
    for gradient in gradients:
        sums = _per_tensor(gradient.cpu(), layout)
        first += sums.means
        second += sums.square_sums / sizes
        count += 1
    mean = first / count
    variance = (second / count - mean.square()).clamp(*settings.variances)
    return GradientStatistics(mean, variance.sqrt())


class _per_tensor:  # noqa: N801 - reads as a function at its call sites
    """Means and sums of squares of every tensor of a flat vector, each of shape ``[n_t]``."""

    def __init__(self, vector: Tensor, layout: Layout) -> None:
        pieces = [vector[piece.offset : piece.end] for piece in layout.tensors]
        self.means = torch.stack([piece.mean() for piece in pieces])
        self.square_sums = torch.stack([piece.square().sum() for piece in pieces])
