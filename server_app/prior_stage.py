"""Stage 1 of Algorithm 1 on the server: combine the gradient statistics that a cohort has released."""

import numpy as np
import torch

from common.adapter import Layout
from common.codecs.statistics import GradientStatistics
from common.config import RunConfig
from common.privacy.mechanism import ReleaseTerms, combine
from common.privacy.noise import RandomSource
from common.scale_code import ScaleCode


def combine_statistics(
    releases: list[np.ndarray],
    terms: ReleaseTerms,
    layout: Layout,
    config: RunConfig,
    source: RandomSource,
    expected: float,
) -> GradientStatistics:
    """Means and stds of every tensor (each of shape ``[n_t]``) from the cohort's releases."""
    if terms.noise_multiplier == 0:
        return _average(releases, with_mean=config.statistics.mean)
    total = combine(releases, terms, source)
    noise_std = terms.noise_multiplier * terms.clip_norm
    std = ScaleCode.of(layout, config.statistics).decode(total, noise_std, expected)
    return GradientStatistics(torch.zeros_like(std), std)


def _average(releases: list[np.ndarray], *, with_mean: bool) -> GradientStatistics:
    """Root mean square of the clients' stds, and the mean of their means when it is wanted."""
    rows = torch.from_numpy(np.stack(releases))
    mean, std = rows.chunk(2, dim=1)
    average = mean.mean(dim=0) if with_mean else torch.zeros(mean.shape[1])
    return GradientStatistics(average, std.square().mean(dim=0).sqrt())
