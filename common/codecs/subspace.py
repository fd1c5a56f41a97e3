"""A codec whose rows a prior has chosen, with a weight each, and fresh random rows beside them if wanted.

``encode(x) = S [Q x ; R (x - Qᵀ Q x)]``: learned rows ``Q`` (``rows``), a seeded random subspace ``R`` of what they
leave, and one scale a row. ``decode`` is the transpose, so a scale acts twice: it decides which share of the clipped
code, and hence of the signal, a direction gets, and how far the step goes along it.
"""

from typing import Self

import torch
from torch import Tensor

from common.adapter import Layout
from common.codecs.base import (
    Codec,
    CodecState,
    EncoderSpec,
    Scalar,
    Tangents,
    check_shape,
    layout_fields,
    register,
    working,
)
from common.codecs.linear import LinearCodec
from common.codecs.rows import BlockRows, Rows, TangentRows, TuckerRows

KIND = "subspace"
VERSION = 2


class SubspaceCodec(Codec):
    """Learned rows, then ``fresh`` random ones that ``redraw`` replaces.

    Args:
        layout: the adapter, n values.
        rows: the learned rows.
        scales: one for each row, the random ones last, shape ``[k]``, none negative.
        seed: seed of the random rows, 0 to 2^63 - 1.
        epoch: number of the draw from that seed.

    Raises:
        ValueError: shapes do not fit, or a name or number is out of range.

    """

    def __init__(self, layout: Layout, rows: Rows, scales: Tensor, *, seed: int = 0, epoch: int = 0) -> None:
        fresh = len(scales) - rows.size
        if scales.dim() != 1 or fresh < 0 or not len(scales):
            raise ValueError(f"codec 'subspace': array 'scales' has shape {tuple(scales.shape)} for {rows.size} rows")
        if not bool((scales >= 0).all()):
            raise ValueError("codec 'subspace': array 'scales' holds a negative number or nan")
        self._layout, self._rows, self._scales = layout, rows, scales.detach().cpu().float().clone()
        self._seed, self._epoch = seed, epoch
        self._random = LinearCodec.of_form(layout, fresh, seed).redraw(epoch) if fresh else None

    @property
    def dim(self) -> int:
        """Number of values ``n`` of the adapter vector."""
        return self._layout.size

    @property
    def size(self) -> int:
        """Number of values ``k`` of the code."""
        return len(self._scales)

    def encode(self, vector: Tensor) -> Tensor:
        """Project on the learned rows, what is left on the random ones, and scale: shape ``[n]`` to ``[k]``."""
        check_shape("adapter vector", vector, self.dim)
        vector = working(vector)
        code = self._rows.project(vector)
        if self._random is not None:
            code = torch.cat((code, self._random.encode(vector - self._rows.lift(code))))
        return code * self._scales.to(code)

    def decode(self, code: Tensor) -> Tensor:
        """Apply the transpose of ``encode``: shape ``[k]`` to ``[n]``."""
        check_shape("code", code, self.size)
        code = working(code)
        learned, fresh = (code * self._scales.to(code)).tensor_split([self._rows.size])
        if self._random is None:
            return self._rows.lift(learned)
        vector = self._random.decode(fresh)
        return vector + self._rows.lift(learned - self._rows.project(vector))

    def redraw(self, epoch: int) -> Self:
        """Keep the learned rows, take the random ones of ``epoch``."""
        if self._random is None or epoch == self._epoch:
            return self
        return self._with(self._rows, epoch)

    def bound(self, tangents: Tangents) -> Self:
        """Hand the model to rows that are made of its gradients."""
        rows = self._rows.bound(tangents)
        return self if rows is self._rows else self._with(rows, self._epoch)

    def spec(self) -> EncoderSpec:
        """Give rows, scales and the seeded draw."""
        return EncoderSpec(KIND, VERSION, self._fields(), self._arrays())

    def state(self) -> CodecState:
        """Give the same as the spec: a transpose needs nothing more."""
        return CodecState(KIND, VERSION, self._fields(), self._arrays())

    def _with(self, rows: Rows, epoch: int) -> Self:
        return type(self)(self._layout, rows, self._scales, seed=self._seed, epoch=epoch)

    def _fields(self) -> dict[str, Scalar]:
        own: dict[str, Scalar] = {"rows": self._rows.name}
        if isinstance(self._rows, TuckerRows):
            own["width"] = self._rows.width
        return {**layout_fields(self._layout), **own, "seed": self._seed, "epoch": self._epoch}

    def _arrays(self) -> dict[str, Tensor]:
        return {"scales": self._scales.clone(), **self._rows.arrays()}


def _from_parcel(parcel: EncoderSpec | CodecState, layout: Layout) -> SubspaceCodec:
    return SubspaceCodec(
        layout,
        _rows_of(parcel, layout),
        parcel.array("scales", (-1,)),
        seed=parcel.value("seed", int),
        epoch=parcel.value("epoch", int),
    )


def _rows_of(parcel: EncoderSpec | CodecState, layout: Layout) -> Rows:
    name = parcel.value("rows", str)
    if name == BlockRows.name:
        return BlockRows(layout, parcel.array("blocks", (-1, 3)), parcel.array("basis", (-1,)))
    if name == TuckerRows.name:
        width = parcel.value("width", int)
        return TuckerRows(layout, width, parcel.array("sides", (-1,)), parcel.array("core", (-1, -1)))
    if name == TangentRows.name:
        tokens, spans = parcel.array("tokens", (-1, -1, -1)), parcel.array("spans", (-1, -1, 2))
        return TangentRows(
            layout, parcel.array("point", (layout.size,)), tokens, spans, parcel.array("weights", (-1, -1))
        )
    raise ValueError(f"codec 'subspace': field 'rows' is {name!r}, expected blocks, tucker or tangents")


register(KIND, VERSION, encoder=_from_parcel, codec=_from_parcel)
