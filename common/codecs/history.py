"""The history prior: some rows of the projection point where the released model has been moving, the others anywhere.

``history`` is a decayed sum of steps that the adapter has taken (n values). Each of the tensors it is strongest in
gives one row: the history restricted to that tensor, at unit norm. The other rows are a seeded random subspace of their
orthogonal complement, so all k rows are orthonormal and ``decode`` is the transpose. A reflection per tensor
(Householder) turns its history onto the tensor's first coordinate, which is then a code value by itself, and the
other coordinates are projected as ever: exact, O(n), no matrix.

The history is made of released steps alone, so it costs no privacy; it costs bytes: n float32 values to every client
in every round, as many as the adapter itself.
"""

from typing import Self

import torch
from torch import Tensor

from common.adapter import Layout, TensorSlice
from common.codecs.base import Codec, CodecState, EncoderSpec, Scalar, check_shape, layout_fields, register, working
from common.codecs.linear import LinearCodec

KIND = "history"
VERSION = 2


class HistoryCodec(Codec):
    """Orthonormal rows: at most ``rows`` directions of the history, then a random subspace of what is left.

    Args:
        layout: the adapter, n values.
        history: decayed sum of released steps, shape ``[n]``; zeros (round 1) make a purely random subspace.
        rows: most rows that the history may take, one a tensor, the tensors of largest norm first.
        size: values k of the code.
        seed: seed of the random rows, 0 to 2^63 - 1.
        epoch: number of the draw from that seed.

    Raises:
        ValueError: an argument is out of range; the message names it.

    """

    def __init__(self, layout: Layout, history: Tensor, *, rows: int, size: int, seed: int, epoch: int = 0) -> None:
        if not 1 <= size <= layout.size:
            raise ValueError(f"codec.size = {size} is out of range; allowed: 1 to {layout.size}")
        if not 0 <= rows < size:
            raise ValueError(f"rows = {rows} is out of range; allowed: 0 to {size - 1}")
        check_shape("history", history, layout.size)
        self._layout, self._rows, self._size = layout, rows, size
        self._seed, self._epoch = seed, epoch
        self._history = history.detach().cpu().float().clone()
        self._led = _strongest(layout, self._history, rows)
        self._mirrors = [_mirror(self._history[piece.offset : piece.end]) for piece in self._led]
        self._free = torch.ones(layout.size, dtype=torch.bool)
        self._free[[piece.offset for piece in self._led]] = False
        led = len(self._led)
        rest = Layout.of({"rest": (layout.size - led,)})
        self._random = LinearCodec.of_form(rest, size - led, seed).redraw(epoch)

    @property
    def dim(self) -> int:
        """Number of values ``n`` of the adapter vector."""
        return self._layout.size

    @property
    def size(self) -> int:
        """Number of values ``k`` of the code."""
        return self._size

    def encode(self, vector: Tensor) -> Tensor:
        """Return the projections on the history (up to sign), then the random ones: shape ``[n]`` to ``[k]``."""
        check_shape("adapter vector", vector, self.dim)
        turned = self._reflect(working(vector).clone())
        free = self._free.to(turned.device)
        return torch.cat((turned[~free], self._random.encode(turned[free])))

    def decode(self, code: Tensor) -> Tensor:
        """Apply the transpose of ``encode``: shape ``[k]`` to ``[n]``."""
        check_shape("code", code, self.size)
        code = working(code)
        led, free = len(self._led), self._free.to(code.device)
        turned = torch.empty(self.dim, dtype=code.dtype, device=code.device)
        turned[~free] = code[:led]
        turned[free] = self._random.decode(code[led:])
        return self._reflect(turned)

    def advance(self, step: Tensor, decay: float) -> Self:
        """Return the codec whose history is ``decay * history + step``; ``step`` has shape ``[n]``."""
        return self._with(decay * self._history + step.cpu(), self._epoch)

    def redraw(self, epoch: int) -> Self:
        """Keep the history, take the random rows of ``epoch``."""
        return self if epoch == self._epoch else self._with(self._history, epoch)

    def spec(self) -> EncoderSpec:
        """Give the seeded draw and the history: n float32 values."""
        return EncoderSpec(KIND, VERSION, self._fields(), {"history": self._history.clone()})

    def _with(self, history: Tensor, epoch: int) -> Self:
        return type(self)(
            self._layout,
            history,
            rows=self._rows,
            size=self._size,
            seed=self._seed,
            epoch=epoch,
        )

    def _reflect(self, vector: Tensor) -> Tensor:
        """Apply every tensor's reflection, its own inverse and transpose, in place."""
        for piece, mirror in zip(self._led, self._mirrors, strict=True):
            part, normal = vector[piece.offset : piece.end], mirror.to(vector)
            part.sub_(normal * (2 * (normal @ part)))
        return vector

    def _fields(self) -> dict[str, Scalar]:
        own: dict[str, Scalar] = {"rows": self._rows, "size": self._size}
        return {**layout_fields(self._layout), **own, "seed": self._seed, "epoch": self._epoch}


def _strongest(layout: Layout, history: Tensor, rows: int) -> list[TensorSlice]:
    """At most ``rows`` tensors whose history has a direction, largest norm first, in the layout's order."""
    norms = {piece: _norm(history[piece.offset : piece.end]) for piece in layout.tensors}
    moving = [piece for piece, norm in norms.items() if 0 < norm < float("inf")]
    return sorted(sorted(moving, key=lambda piece: -norms[piece])[:rows], key=lambda piece: piece.offset)


def _norm(part: Tensor) -> float:
    return float(part.double().norm())


def _mirror(part: Tensor) -> Tensor:
    """Unit normal (float64) of the reflection that maps ``part``, up to sign, onto the first coordinate."""
    normal = part.double() / _norm(part)
    normal[0] += 1.0 if normal[0] >= 0 else -1.0
    return normal.div_(normal.norm())


def _from_parcel(parcel: EncoderSpec | CodecState, layout: Layout) -> HistoryCodec:
    return HistoryCodec(
        layout,
        parcel.array("history", (layout.size,)),
        rows=parcel.value("rows", int),
        size=parcel.value("size", int),
        seed=parcel.value("seed", int),
        epoch=parcel.value("epoch", int),
    )


register(KIND, VERSION, _from_parcel, _from_parcel)
