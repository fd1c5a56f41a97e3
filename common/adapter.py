"""The LoRA adapter as one flat vector: names, shapes and offsets, in one order for ever.

Everything that leaves a client is computed from this flat view, so both sides must agree on it. The order is the
lexicographic order of the parameter names, which is independent of how a model happens to register its modules.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor


@dataclass(frozen=True)
class TensorSlice:
    """One LoRA factor inside the flat vector: ``vector[offset : offset + size]`` viewed as ``shape``."""

    name: str
    shape: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        """Number of values of this tensor."""
        return prod(self.shape)

    @property
    def end(self) -> int:
        """First offset after this tensor."""
        return self.offset + self.size


@dataclass(frozen=True)
class Layout:
    """Where every LoRA factor lies in the flat adapter vector of ``size`` values.

    >>> layout = Layout.of({"q.B": (3, 1), "q.A": (1, 2)})
    >>> [(piece.name, piece.offset, piece.end) for piece in layout.tensors], layout.size
    ([('q.A', 0, 2), ('q.B', 2, 5)], 5)
    >>> layout.unflatten(torch.arange(5.0))["q.A"]
    tensor([[0., 1.]])
    >>> layout.expand(torch.tensor([7.0, 9.0]))
    tensor([7., 7., 9., 9., 9.])
    """

    tensors: tuple[TensorSlice, ...]

    @classmethod
    def of(cls, shapes: Mapping[str, Iterable[int]]) -> "Layout":
        """Lay out named tensors of the given shapes, in lexicographic order of their names."""
        slices, offset = [], 0
        for name in sorted(shapes):
            piece = TensorSlice(name, tuple(shapes[name]), offset)
            slices.append(piece)
            offset = piece.end
        return cls(tuple(slices))

    @property
    def size(self) -> int:
        """Number of values ``n`` of the whole adapter."""
        return self.tensors[-1].end if self.tensors else 0

    @cached_property
    def digest(self) -> str:
        """Short hash of names and shapes; two parties with equal digests agree on every offset."""
        text = ";".join(f"{piece.name}{piece.shape}" for piece in self.tensors)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Concatenate named tensors into one float32 vector of shape ``[n]``; missing names raise ``KeyError``."""
        return torch.cat([tensors[piece.name].detach().reshape(-1).float() for piece in self.tensors])

    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        """Views of ``vector`` (shape ``[n]``) under the tensors' names; another size raises ``ValueError``."""
        if vector.shape != (self.size,):
            raise ValueError(f"adapter vector has shape {tuple(vector.shape)}, expected ({self.size},)")
        return {piece.name: vector[piece.offset : piece.end].view(piece.shape) for piece in self.tensors}

    def expand(self, per_tensor: Tensor) -> Tensor:
        """Repeat one value per tensor (shape ``[n_t]``) over that tensor's elements (shape ``[n]``)."""
        sizes = torch.tensor([piece.size for piece in self.tensors])
        return torch.repeat_interleave(per_tensor, sizes)


@dataclass(frozen=True)
class RankCut:
    """The part of an adapter that a smaller rank has: of every factor the first directions.

    ``full`` has n values, ``part`` fewer; its tensors have the same names and are no larger in any dimension. B A of
    the part is what the first directions of B A of the whole are (HeteroLoRA, arXiv 2401.06432, truncates alike).
    """

    full: Layout
    part: Layout

    @property
    def is_whole(self) -> bool:
        """Whether nothing is cut."""
        return self.full is self.part or self.full == self.part

    def cut(self, vector: Tensor) -> Tensor:
        """The part of a whole adapter: shape ``[n]`` to ``[part.size]``."""
        if self.is_whole:
            return vector
        tensors = self.full.unflatten(vector)
        return torch.cat([tensors[piece.name][_within(piece.shape)].reshape(-1) for piece in self.part.tensors])

    def pad(self, vector: Tensor) -> Tensor:
        """A gradient of the part as one of the whole, zero elsewhere: ``[part.size]`` to ``[n]``, of the same norm."""
        if self.is_whole:
            return vector
        padded = vector.new_zeros(self.full.size)
        places = self.full.unflatten(padded)
        for name, values in self.part.unflatten(vector).items():
            places[name][_within(values.shape)] = values
        return padded


def _within(shape: Iterable[int]) -> tuple[slice, ...]:
    return tuple(slice(length) for length in shape)
