"""A codec whose rows a prior has chosen, with a weight each.

``encode(x) = S Q x``: rows ``Q`` (``rows``) and one scale a row. ``decode`` is the transpose, so a scale acts twice: it
decides which share of the clipped code, and hence of the signal, a direction gets, and how far the step goes along it.
"""

from typing import Self

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
from common.codecs.rows import BlockRows, Rows, TangentRows, TuckerRows

KIND = "subspace"
VERSION = 2


class SubspaceCodec(Codec):
    """Rows and their scales.

    Args:
        layout: the adapter, n values.
        rows: the prior's rows.
        scales: one for each row, shape ``[k]``, none negative.

    Raises:
        ValueError: the scales do not fit the rows, or one is negative or nan.

    """

    def __init__(self, layout: Layout, rows: Rows, scales: Tensor) -> None:
        if tuple(scales.shape) != (rows.size,) or not len(scales):
            raise ValueError(f"codec 'subspace': array 'scales' has shape {tuple(scales.shape)} for {rows.size} rows")
        if not bool((scales >= 0).all()):
            raise ValueError("codec 'subspace': array 'scales' holds a negative number or nan")
        self._layout, self._rows, self._scales = layout, rows, scales.detach().cpu().float().clone()

    @property
    def dim(self) -> int:
        """Number of values ``n`` of the adapter vector."""
        return self._layout.size

    @property
    def size(self) -> int:
        """Number of values ``k`` of the code."""
        return len(self._scales)

    def encode(self, vector: Tensor) -> Tensor:
        """Project on the rows and scale: shape ``[n]`` to ``[k]``."""
        check_shape("adapter vector", vector, self.dim)
        code = self._rows.project(working(vector))
        return code * self._scales.to(code)

    def decode(self, code: Tensor) -> Tensor:
        """Apply the transpose of ``encode``: shape ``[k]`` to ``[n]``."""
        check_shape("code", code, self.size)
        code = working(code)
        return self._rows.lift(code * self._scales.to(code))

    def bound(self, tangents: Tangents) -> Self:
        """Hand the model to rows that are made of its gradients."""
        rows = self._rows.bound(tangents)
        return self if rows is self._rows else type(self)(self._layout, rows, self._scales)

    def spec(self) -> EncoderSpec:
        """Give rows and scales."""
        fields: dict[str, Scalar] = {**layout_fields(self._layout), "rows": self._rows.name}
        if isinstance(self._rows, TuckerRows):
            fields["width"] = self._rows.width
        return EncoderSpec(KIND, VERSION, fields, {"scales": self._scales.clone(), **self._rows.arrays()})


def _from_parcel(parcel: EncoderSpec | CodecState, layout: Layout) -> SubspaceCodec:
    return SubspaceCodec(layout, _rows_of(parcel, layout), parcel.array("scales", (-1,)))


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
