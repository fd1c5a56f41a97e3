"""The seeded linear AutoEncoder: orthonormal projections that are implied by a seed, never stored.

``encode(x) = Q (x - m)`` and ``decode(c) = Qᵀ c + m``, where ``m`` holds one mean per tensor. ``Q`` is block
diagonal: each block is a random subspace of a range of coordinates (``allocation`` chooses the blocks,
``transform`` applies them). The rows of ``Q`` are orthonormal, so a code is never longer than what it
encodes. All of it is public.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Self, TypedDict

import torch
from torch import Tensor

from common.adapter import Layout
from common.codecs.allocation import FORMS, Block
from common.codecs.base import (
    Codec,
    CodecState,
    Encoder,
    EncoderSpec,
    Scalar,
    check_shape,
    layout_fields,
    register,
    working,
)
from common.codecs.statistics import GradientStatistics
from common.codecs.transform import SEED_LIMIT, Buckets, Draw

KIND = "linear"
VERSION = 3


class LinearEncoder(Encoder):
    """``encode(x) = Q (x - m)`` with the block-diagonal ``Q`` that (blocks, seed, epoch) imply.

    Args:
        layout: the adapter.
        blocks: disjoint coordinate ranges and the number of dimensions each gets; the code is in their order.
        mean: mean per tensor, shape ``[n_t]``; all zero switches the bias off.
        seed: together with ``epoch`` it determines every block's subspace.
        epoch: which of the seed's independent subspaces.

    Raises:
        ValueError: an argument does not fit the others, or is not among what is allowed.

    """

    def __init__(
        self,
        layout: Layout,
        *,
        blocks: Sequence[Block],
        mean: Tensor,
        seed: int,
        epoch: int = 0,
    ) -> None:
        for name, value in (("codec.seed", seed), ("epoch", epoch)):
            if not 0 <= value < SEED_LIMIT:
                raise ValueError(f"{name} = {value} is out of range; allowed: 0 to 2^63 - 1")
        _check_blocks(layout, blocks)
        check_shape("mean per tensor", mean, len(layout.tensors))
        self._layout, self._blocks, self._mean = layout, tuple(blocks), mean.detach().cpu().float().clone()
        self._seed, self._epoch = seed, epoch

    @property
    def dim(self) -> int:
        """Number of values ``n`` of the adapter vector."""
        return self._layout.size

    @property
    def size(self) -> int:
        """Number of values ``k`` of the code."""
        return sum(block.size for block in self._blocks)

    def encode(self, vector: Tensor) -> Tensor:
        """Return ``Q (x - m)``: shape ``[n]`` to ``[k]``; another shape raises ``ValueError``."""
        check_shape("adapter vector", vector, self.dim)
        centered = working(vector)
        if self._has_bias:
            centered = centered - self._bias(centered)
        codes = [
            subspace.project(centered[block.offset : block.offset + block.dim])
            for block, subspace in zip(self._blocks, self._subspaces, strict=True)
        ]
        return torch.cat(codes)

    def spec(self) -> EncoderSpec:
        """Give seed, epoch, blocks and what is not zero of the means, whatever n and k are."""
        fields: dict[str, Scalar] = {**layout_fields(self._layout), "seed": self._seed, "epoch": self._epoch}
        arrays = {"blocks": torch.tensor(self._blocks, dtype=torch.int64)}
        return EncoderSpec(KIND, VERSION, fields, arrays | ({"mean": self._mean.clone()} if self._has_bias else {}))

    @cached_property
    def _subspaces(self) -> list[Buckets]:
        draws = (Draw(self._seed, self._epoch, stream) for stream in range(len(self._blocks)))
        return [Buckets(block.dim, block.size, draw) for block, draw in zip(self._blocks, draws, strict=True)]

    @cached_property
    def _has_bias(self) -> bool:
        return bool(self._mean.any())

    def _bias(self, like: Tensor) -> Tensor:
        """Expand the means to shape ``[n]``."""
        return self._layout.expand(self._mean).to(like)


class LinearCodec(LinearEncoder, Codec):
    """``LinearEncoder`` with its transpose as decoder; ``decode(encode(x))`` is an orthogonal projection."""

    seeded = True

    @classmethod
    def of_form(
        cls,
        layout: Layout,
        size: int,
        seed: int,
        *,
        form: str = "global",
        statistics: GradientStatistics | None = None,
    ) -> "LinearCodec":
        """Make the seeded codec of a form (``FORMS``); without statistics every tensor counts as N(0, 1).

        A size outside 1..n, an unknown form, or statistics of another adapter raise ``ValueError``.
        """
        if form not in FORMS:
            raise ValueError(f"codec.form = '{form}' is unknown; allowed: {', '.join(FORMS)}")
        if not 1 <= size <= layout.size:
            raise ValueError(f"codec.size = {size} is out of range; allowed: 1 to {layout.size}")
        if statistics is None:
            count = len(layout.tensors)
            statistics = GradientStatistics(torch.zeros(count), torch.ones(count))
        statistics.check(layout)
        blocks = FORMS[form](layout, statistics, size)
        return cls(layout, blocks=blocks, mean=statistics.mean, seed=seed)

    def decode(self, code: Tensor) -> Tensor:
        """Return ``Qᵀ c + m``: shape ``[k]`` to ``[n]``; another shape raises ``ValueError``."""
        check_shape("code", code, self.size)
        code = working(code)
        vector = torch.zeros(self.dim, dtype=code.dtype, device=code.device)
        parts = code.split([block.size for block in self._blocks])
        for block, subspace, part in zip(self._blocks, self._subspaces, parts, strict=True):
            vector[block.offset : block.offset + block.dim] = subspace.lift(part)
        return vector.add_(self._bias(vector)) if self._has_bias else vector

    def redraw(self, epoch: int) -> Self:
        """Keep blocks and means, take the subspaces of ``epoch``, independent of all other epochs."""
        if epoch == self._epoch:
            return self
        return type(self)(
            self._layout,
            blocks=self._blocks,
            mean=self._mean,
            seed=self._seed,
            epoch=epoch,
        )


def _check_blocks(layout: Layout, blocks: Sequence[Block]) -> None:
    """Blocks must be non-empty, in order, disjoint and inside the vector, each with 1..dim dimensions.

    No form has more of them than tensors; a site draws each anew for every sum that it is sent, before it charges.
    """
    if len(blocks) > len(layout.tensors):
        raise ValueError(f"{len(blocks)} blocks of a linear codec, for an adapter of {len(layout.tensors)} tensors")
    end = 0
    for block in blocks:
        if block.offset < end or block.offset + block.dim > layout.size or not 1 <= block.size <= block.dim:
            raise ValueError(f"{block} does not fit an adapter of {layout.size} values after offset {end}")
        end = block.offset + block.dim
    if not blocks:
        raise ValueError("a linear codec needs at least one block")


class _Arguments(TypedDict):
    blocks: list[Block]
    mean: Tensor
    seed: int
    epoch: int


def _arguments(parcel: EncoderSpec | CodecState, layout: Layout) -> _Arguments:
    count = len(layout.tensors)
    return {
        "blocks": [Block(*row) for row in parcel.array("blocks", (-1, 3)).tolist()],
        "mean": parcel.array("mean", (count,)) if "mean" in parcel.arrays else torch.zeros(count),
        "seed": parcel.value("seed", int),
        "epoch": parcel.value("epoch", int),
    }


register(
    KIND,
    VERSION,
    encoder=lambda spec, layout: LinearCodec(layout, **_arguments(spec, layout)),
    codec=lambda state, layout: LinearCodec(layout, **_arguments(state, layout)),
)
