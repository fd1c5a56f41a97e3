"""How a seeded linear codec shares its k dimensions among the LoRA factors: the forms of ``codec.form``.

The paper's objective, min E‖Dec∘Enc(Ĝ) - Ĝ‖² over synthetic gradients Ĝ ~ N(m, s) that are independent and
have one deviation per tensor (Algorithm 1, server step 2), fixes only *how many* dimensions each tensor gets:
within a tensor all directions are alike. For a linear AutoEncoder the optimum is principal component
analysis, hence all dimensions in the tensors of largest deviation (``optimum``). It captures most energy of
*synthetic* gradients and learns worst on real ones.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from common.adapter import Layout
from common.codecs.statistics import GradientStatistics


class Block(NamedTuple):
    """``size`` dimensions for the coordinates ``offset : offset + dim`` of the adapter vector."""

    offset: int
    dim: int
    size: int


def apportion(weights: Tensor, capacities: Tensor, total: int) -> list[int]:
    """Share ``total`` units in proportion to ``weights`` (largest remainder), at most ``capacities`` each.

    Args:
        weights: float64, shape ``[n_t]``, not negative, with a positive sum.
        capacities: int64, shape ``[n_t]``.
        total: at most the capacity of the entries with a positive weight, or ``ValueError`` is raised.

    >>> apportion(torch.tensor([1.0, 1.0, 2.0]).double(), torch.tensor([10, 2, 10]), 9)
    [2, 2, 5]

    """
    full, filling = torch.zeros_like(weights, dtype=torch.bool), weights > 0
    if total > (room := int(capacities[filling].sum())):
        raise ValueError(f"codec.size = {total} exceeds the {room} values of the tensors that get dimensions")
    while True:
        shared = torch.where(filling, weights, 0.0)
        quotas = (total - int(capacities[full].sum())) * shared / shared.sum().clamp_min(torch.finfo(shared.dtype).tiny)
        over = filling & (quotas > capacities)
        if not over.any():
            break
        full, filling = full | over, filling & ~over
    shares = torch.where(full, capacities, quotas.floor().long())
    by_remainder = torch.argsort(torch.where(filling, quotas - quotas.floor(), -1.0), descending=True, stable=True)
    shares[by_remainder[: total - int(shares.sum())]] += 1
    return [int(share) for share in shares]


def _capacities(layout: Layout) -> Tensor:
    return torch.tensor([piece.size for piece in layout.tensors])


def _blocks(layout: Layout, shares: list[int]) -> tuple[Block, ...]:
    pairs = zip(layout.tensors, shares, strict=True)
    return tuple(Block(piece.offset, piece.size, share) for piece, share in pairs if share)


def across_all(layout: Layout, _: GradientStatistics, size: int) -> tuple[Block, ...]:
    """``global``: one subspace of the whole vector, blind to where tensors begin. The default."""
    return (Block(0, layout.size, size),)


def equal_per_tensor(layout: Layout, _: GradientStatistics, size: int) -> tuple[Block, ...]:
    """``per-tensor``: the same number of dimensions for every tensor, up to one, and at most its size."""
    if size < len(layout.tensors):
        allowed = f"at least {len(layout.tensors)}, one dimension per tensor"
        raise ValueError(f"codec.size = {size} is too small for codec.form = 'per-tensor'; allowed: {allowed}")
    weights = torch.ones(len(layout.tensors), dtype=torch.float64)
    return _blocks(layout, apportion(weights, _capacities(layout), size))


def by_variance(layout: Layout, statistics: GradientStatistics, size: int) -> tuple[Block, ...]:
    """``variance-proportional``: dimensions in proportion to a tensor's expected energy n_j·s_j²."""
    capacities = _capacities(layout)
    return _blocks(layout, apportion(capacities * statistics.std.cpu().double() ** 2, capacities, size))


def optimum(layout: Layout, statistics: GradientStatistics, size: int) -> tuple[Block, ...]:
    """``optimum``: the minimizer of the paper's objective, tensors filled in order of falling deviation."""
    shares = [0] * len(layout.tensors)
    for index in torch.argsort(statistics.std.cpu(), descending=True, stable=True).tolist():
        shares[index] = min(size - sum(shares), layout.tensors[index].size)
    return _blocks(layout, shares)


FORMS: dict[str, Callable[[Layout, GradientStatistics, int], tuple[Block, ...]]] = {
    "global": across_all,
    "per-tensor": equal_per_tensor,
    "variance-proportional": by_variance,
    "optimum": optimum,
}
"""The seeded forms by the name they have in configuration."""

BLIND_FORMS = ("global", "per-tensor")
"""Those of them that read no statistics."""
