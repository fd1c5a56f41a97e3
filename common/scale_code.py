"""Per-tensor gradient scales as a code of bounded norm (Algorithm 1, step 5, made releasable).

A std differs by orders of magnitude between tensors, so what is released is the logarithm of the variance, mapped from
[log10 h1, log10 h2] to [-1, 1]: one coordinate per tensor, and a last coordinate that is always 1 and counts
the participants. The count makes the mean a ratio of two noisy sums, which does not suffer from the fixed
denominator when the realized cohort differs from the expected one.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.adapter import Layout
from common.config import StageOneConfig

BOUND_PER_COORDINATE = 0.7  # clip bound is this times sqrt(coordinates): typical codes fit, outliers do not


@dataclass(frozen=True)
class ScaleCode:
    """Maps stds of ``n_t`` tensors to a code of ``size`` coordinates and noisy sums of codes back to stds."""

    families: tuple[int, ...]
    log_floor: float
    log_ceiling: float

    @classmethod
    def of(cls, layout: Layout, settings: StageOneConfig) -> "ScaleCode":
        """One coordinate per tensor; those of one module type are a family."""
        kinds = [module_type(piece.name) for piece in layout.tensors]
        index = {kind: number for number, kind in enumerate(sorted(set(kinds)))}
        return cls(tuple(index[kind] for kind in kinds), *map(math.log10, settings.variances))

    @property
    def coordinates(self) -> int:
        """Number of released scales."""
        return len(self.families)

    @property
    def size(self) -> int:
        """Length of a code: the scales and the participation count."""
        return self.coordinates + 1

    @property
    def bound(self) -> float:
        """Clip bound of one client's code."""
        return math.hypot(BOUND_PER_COORDINATE * math.sqrt(self.coordinates), 1.0)

    def encode(self, std: Tensor) -> Tensor:
        """Stds (shape ``[n_t]``) to a code (shape ``[size]``) whose entries lie in [-1, 1]."""
        center, half = (self.log_ceiling + self.log_floor) / 2, (self.log_ceiling - self.log_floor) / 2
        logs = (2 * std.double().log10()).clamp(self.log_floor, self.log_ceiling)
        return torch.cat([(logs - center) / half, torch.ones(1, dtype=torch.float64)]).float()

    def decode(self, total: Tensor, noise_std: float, expected: float) -> Tensor:
        """A noisy sum of codes to stds (shape ``[n_t]``), shrunk towards each module type's mean.

        ``noise_std`` is the std of the noise in ``total``; ``expected`` the expected number of participants, used as a
        floor of a tenth against a count that the noise has driven to zero.
        """
        count = max(float(total[-1]), expected / 10)
        released = (total[:-1].double() / count).clamp(-1, 1)
        shrunk = shrink(released, self.families, (noise_std / count) ** 2)
        center, half = (self.log_ceiling + self.log_floor) / 2, (self.log_ceiling - self.log_floor) / 2
        return (10 ** ((shrunk * half + center) / 2)).float()


def shrink(values: Tensor, families: Sequence[int], noise_variance: float) -> Tensor:
    """Empirical-Bayes shrinkage of each value towards its family's mean, by the share of spread that is noise."""
    family = torch.tensor(families)
    shrunk = values.clone()
    for number in set(families):
        members = values[family == number]
        spread = float(members.var(unbiased=True)) if len(members) > 1 else 0.0
        kept = max(0.0, 1.0 - noise_variance / spread) if spread > 0 else 0.0
        shrunk[family == number] = members.mean() + kept * (members - members.mean())
    return shrunk


def module_type(name: str) -> str:
    """``base.layers.3.self_attn.q_proj.lora_A.default.weight`` -> ``q_proj.lora_A``."""
    match = re.search(r"([^.]+)\.(lora_(?:embedding_)?[AB])", name)
    return f"{match.group(1)}.{match.group(2)}" if match else name
