"""Pseudo-clients: public prompts with labels sampled from the released model, and where their gradients point.

A label sampled from the model itself makes the expected gradient zero and its second moment the Fisher matrix: the
directions in which the model's answers react most to the adapter. Their leading ones are the prior's rows. Only
public text and the released adapter enter.
"""

import re
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from common import seeds
from common.adapter import Layout, TensorSlice
from common.codecs.rows import BlockRows, Rows, TangentRows, TuckerRows, as_matrix, reduce_to_core
from common.config import PROMPTS_PER_CLIENT, PublicPriorConfig
from common.model.adapted import AdaptedModel
from server_app.priors.public_prompts import LABEL_TOKENS, sample

_NEGLIGIBLE = 1e-10  # of the largest energy: below it a direction is rounding
_TUCKER_WIDTH = 8  # directions that are kept of every tensor's long side


@dataclass(frozen=True)
class PseudoClients:
    """Sequences of all pseudo-clients: ``tokens`` ``[clients, prompts, length]`` (int32), ``spans`` as ``Tangents``."""

    tokens: Tensor
    spans: Tensor


@dataclass(frozen=True)
class Directions:
    """Rows of the prior, and the mean share of a pseudo-gradient's energy that each holds (shape ``[k]``)."""

    rows: Rows
    energies: Tensor


def pseudo_clients(
    adapted: AdaptedModel, adapter: Tensor, prompts: list[str], settings: PublicPriorConfig, seed: int
) -> PseudoClients:
    """Give every pseudo-client prompts of its own draw, and each a label sampled from the model with ``adapter``."""
    generator = torch.Generator().manual_seed(seed)
    each, count = PROMPTS_PER_CLIENT, settings.pseudo_clients
    drawn = [torch.randperm(len(prompts), generator=generator)[:each].tolist() for _ in range(count)]
    adapted.load(torch.nan_to_num(adapter))
    sampled = sample(adapted, [prompts[i] for row in drawn for i in row], LABEL_TOKENS, seeds.of_labels(seed))
    tokens = torch.zeros(len(sampled), max(len(row) for row, _ in sampled), dtype=torch.int32)
    for line, (row, _) in zip(tokens, sampled, strict=True):
        line[: len(row)] = torch.tensor(row)
    spans = torch.tensor([(start, len(row)) for row, start in sampled], dtype=torch.int32)
    return PseudoClients(tokens.view(count, each, -1), spans.view(count, each, 2))


def directions(
    layout: Layout, gradients: Tensor, size: int, settings: PublicPriorConfig, clients: PseudoClients, point: Tensor
) -> Directions:
    """The ``size`` leading principal directions of the unit-normalized gradients (shape ``[clients, n]``).

    A gradient that is zero or not finite counts for nothing. Where fewer directions than ``size`` exist, the rows
    that are left are zero, with energy zero.
    """
    norms = gradients.norm(dim=1)
    usable = norms.isfinite() & (norms > 0)
    inverse = torch.where(usable, 1 / norms, 0.0)
    units = torch.where(usable[:, None], gradients, 0.0) * inverse[:, None]
    if settings.form == "tucker":
        return _tucker(layout, units, size)
    if settings.form == "per-layer":
        return _per_layer(layout, units, size)
    weights, energies = principal(units, size)
    if settings.delivery == "rebuild":
        rows: Rows = TangentRows(layout, point, clients.tokens, clients.spans, inverse[:, None] * weights)
    else:
        rows = BlockRows(layout, torch.tensor([[0, layout.size, size]]), (weights.T @ units).flatten())
    return Directions(rows, energies)


def rows_bytes(layout: Layout, size: int, settings: PublicPriorConfig, longest: int) -> int:
    """Bytes that ``size`` rows will weigh on the wire, before there are any.

    Exact for stored rows of whole gradients and for Tucker's; layers share rows by their energy, so ``per-layer`` is
    what rows spread by the layers' sizes would weigh at most; ``rebuild`` is with sequences of ``longest`` tokens.
    """
    if settings.form == "tucker":
        shapes = [sorted(piece.shape) for piece in layout.tensors]
        sides = [(short, min(_TUCKER_WIDTH, long), long) for short, long in shapes]
        return 2 * sum(kept * (long + size * short) for short, kept, long in sides)
    if settings.form == "per-layer":
        return 2 * size * max(end - start for start, end in layer_ranges(layout))
    if settings.delivery == "rebuild":
        sequences = settings.pseudo_clients * PROMPTS_PER_CLIENT
        return 4 * (layout.size + sequences * (longest + 2) + settings.pseudo_clients * size)
    return 2 * size * layout.size


def principal(units: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Leading principal directions ``weights.T @ units``, orthonormal, by the eigenvectors of the Gram matrix.

    Returns:
        Weights (shape ``[clients, size]``) and the mean energy along each direction (shape ``[size]``), largest
        first; both are zero where there are no more directions.

    """
    count = len(units)
    values, vectors = torch.linalg.eigh((units @ units.T).double() / count)
    values, vectors = values.flip(0)[:size].clamp(min=0), vectors.flip(1)[:, :size]
    there = values > _NEGLIGIBLE * values[0].clamp(min=1e-30)
    weights = torch.where(there, vectors / (count * values).sqrt(), 0.0)
    energies = torch.where(there, values, 0.0)
    missing = size - len(values)
    return (
        torch.nn.functional.pad(weights, (0, missing)).float(),
        torch.nn.functional.pad(energies, (0, missing)).float(),
    )


def _per_layer(layout: Layout, units: Tensor, size: int) -> Directions:
    """Principal directions of every layer by itself; those of most energy are kept, whatever their layer."""
    ranges = layer_ranges(layout)
    each = [principal(units[:, start:end], min(size, len(units), end - start)) for start, end in ranges]
    pooled = torch.cat([energies for _, energies in each])
    least = pooled.sort(descending=True).values[min(size, len(pooled)) - 1]
    kept = [int((energies >= least).sum()) for _, energies in each]
    surplus = sum(kept) - size
    for index, (_, energies) in enumerate(each):  # ties of the last place (all of them zero, as a rule)
        equal = int((energies[: kept[index]] == least).sum())
        kept[index] -= min(surplus, equal)
        surplus -= min(surplus, equal)
    blocks = [[start, end - start, rows] for (start, end), rows in zip(ranges, kept, strict=True)]
    bases = [
        (weights[:, :rows].T @ units[:, start:end]).flatten()
        for (start, end), (weights, _), rows in zip(ranges, each, kept, strict=True)
    ]
    energies = torch.cat([values[:rows] for (_, values), rows in zip(each, kept, strict=True)])
    return Directions(BlockRows(layout, torch.tensor(blocks), torch.cat(bases)), energies)


def layer_ranges(layout: Layout) -> list[tuple[int, int]]:
    """Start and end of every run of tensors of one layer."""
    ranges = []
    for _, group in groupby(layout.tensors, key=_layer):
        pieces = list(group)
        ranges.append((pieces[0].offset, pieces[-1].end))
    return ranges


def _layer(piece: TensorSlice) -> str:
    """What a tensor's name says up to its first number: one layer's tensors agree in it, and lie side by side."""
    found = re.match(r"(?:.*?\.)?\d+(?=\.)", piece.name)
    return found.group(0) if found else ""


def _tucker(layout: Layout, units: Tensor, size: int) -> Directions:
    """Leading directions of every tensor's long side, then principal directions inside the core that they leave."""
    sides = []
    for piece in layout.tensors:
        matrices = as_matrix(piece, units)
        second = torch.einsum("crs,crt->st", matrices, matrices).double()
        vectors = torch.linalg.eigh(second).eigenvectors.flip(1)
        sides.append(vectors[:, :_TUCKER_WIDTH].T.float().contiguous())
    cores = reduce_to_core(layout, units, sides)
    weights, energies = principal(cores, size)
    rows = TuckerRows(layout, _TUCKER_WIDTH, torch.cat([side.flatten() for side in sides]), weights.T @ cores)
    return Directions(rows, energies)
