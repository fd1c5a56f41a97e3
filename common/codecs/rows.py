"""The learned rows of a subspace codec, in the three shapes in which they travel.

Rows are the ``k`` directions of an adapter vector that a prior found worth sending, nearly orthonormal. Only the way
in which they are written down differs: ``BlockRows`` stores them (for the whole vector or for each layer),
``TuckerRows`` stores a basis of every tensor's long side and the rows inside it, ``TangentRows`` stores no row at
all but the public sequences whose loss gradients span them, and needs the model to apply them.

Stored rows are float16, times ``STORED_SCALE`` so that small entries keep their precision: the rounded rows *are* the
rows, for the client and the server alike.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from common.adapter import Layout, TensorSlice
from common.codecs.base import Tangents

STORED_SCALE = 64.0


class Rows(ABC):
    """``size`` rows over ``n`` values: a linear map and its transpose."""

    name: str

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of rows."""

    @abstractmethod
    def project(self, vector: Tensor) -> Tensor:
        """Return ``Q x``: shape ``[n]`` to ``[k]``, in the vector's precision."""

    @abstractmethod
    def lift(self, code: Tensor) -> Tensor:
        """Return ``Qᵀ c``: shape ``[k]`` to ``[n]``, in the code's precision."""

    @abstractmethod
    def only(self, chosen: Tensor) -> "Rows":
        """Some of the rows in their order; ``chosen``: bool, shape ``[k]``."""

    @abstractmethod
    def arrays(self) -> dict[str, Tensor]:
        """What must travel for ``from_arrays`` to make the same rows."""

    def bound(self, tangents: Tangents) -> "Rows":
        """Rows that can use the model; those that need none are returned as they are."""
        return self


class Block(NamedTuple):
    """``rows`` rows on the coordinates from ``offset`` to ``offset + dim``."""

    offset: int
    dim: int
    rows: int


class BlockRows(Rows):
    """Stored rows, each zero outside its block of coordinates; one block is the whole vector.

    Args:
        layout: the adapter.
        blocks: int64, shape ``[blocks, 3]``: offset, coordinates and rows of each.
        basis: every block's rows one after the other, flat.

    Raises:
        ValueError: the blocks do not fit the adapter, or the basis does not fit the blocks.

    """

    name = "blocks"

    def __init__(self, layout: Layout, blocks: Tensor, basis: Tensor) -> None:
        self._layout = layout
        self._blocks = [Block(*row) for row in blocks.tolist()]
        if any(b.offset < 0 or b.dim < 1 or b.rows < 0 or b.offset + b.dim > layout.size for b in self._blocks):
            raise ValueError(f"codec 'subspace': array 'blocks' does not fit an adapter of {layout.size} values")
        _check_size("basis", basis, sum(block.dim * block.rows for block in self._blocks))
        self._stored = _stored(basis)
        self._cache: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}

    @property
    def size(self) -> int:
        """Number of rows of all blocks."""
        return sum(block.rows for block in self._blocks)

    def project(self, vector: Tensor) -> Tensor:
        """Apply every block to its own coordinates."""
        parts = zip(self._blocks, self._matrices(vector), strict=True)
        return torch.cat([matrix @ vector[block.offset : block.offset + block.dim] for block, matrix in parts])

    def lift(self, code: Tensor) -> Tensor:
        """Add up the blocks' transposes."""
        vector = torch.zeros(self._layout.size, dtype=code.dtype, device=code.device)
        pieces = code.split([block.rows for block in self._blocks])
        for block, matrix, piece in zip(self._blocks, self._matrices(code), pieces, strict=True):
            vector[block.offset : block.offset + block.dim] += matrix.T @ piece
        return vector

    def only(self, chosen: Tensor) -> "BlockRows":
        """Every block with its own of them."""
        parts = chosen.split([block.rows for block in self._blocks])
        pieces = self._stored.split([block.dim * block.rows for block in self._blocks])
        kept = [
            piece.view(block.rows, block.dim)[part].flatten()
            for block, piece, part in zip(self._blocks, pieces, parts, strict=True)
        ]
        blocks = [[b.offset, b.dim, int(part.sum())] for b, part in zip(self._blocks, parts, strict=True)]
        return BlockRows(self._layout, torch.tensor(blocks), torch.cat(kept))

    def arrays(self) -> dict[str, Tensor]:
        """Blocks and rows: 2 bytes a value."""
        return {"blocks": torch.tensor(self._blocks, dtype=torch.int64).view(-1, 3), "basis": self._stored.clone()}

    def _matrices(self, like: Tensor) -> list[Tensor]:
        key = (like.device, like.dtype)
        if key not in self._cache:
            pieces = _unstored(self._stored, like).split([block.dim * block.rows for block in self._blocks])
            self._cache[key] = [
                piece.view(block.rows, block.dim) for block, piece in zip(self._blocks, pieces, strict=True)
            ]
        return self._cache[key]


class TuckerRows(Rows):
    """Rows inside the core that ``width`` directions of every tensor's long side leave: r x width values a tensor.

    Args:
        layout: the adapter.
        width: directions kept of a long side; a side that is shorter keeps all of its own.
        sides: the orthonormal directions of every tensor, ``[width, side]`` each, one after the other, flat.
        core: rows over the concatenated cores, shape ``[k, core]``.

    Raises:
        ValueError: sides or core do not fit the adapter and the width.

    """

    name = "tucker"

    def __init__(self, layout: Layout, width: int, sides: Tensor, core: Tensor) -> None:
        self._layout, self._width = layout, width
        self._shapes = [long_side(piece) for piece in layout.tensors]
        self._kept = [min(width, side) for _, side in self._shapes]
        if width < 1:
            raise ValueError(f"codec 'subspace': field 'width' is {width}, expected at least 1")
        _check_size("sides", sides, sum(kept * side for kept, (_, side) in zip(self._kept, self._shapes, strict=True)))
        if core.dim() != 2 or core.shape[1] != self.core_size:
            raise ValueError(f"codec 'subspace': array 'core' has shape {tuple(core.shape)}, not (k, {self.core_size})")
        self._sides, self._core = _stored(sides), _stored(core)
        self._cache: dict[tuple[torch.device, torch.dtype], tuple[list[Tensor], Tensor]] = {}

    @property
    def width(self) -> int:
        """Directions kept of a long side."""
        return self._width

    @property
    def core_size(self) -> int:
        """Values of all cores together."""
        return sum(short * kept for (short, _), kept in zip(self._shapes, self._kept, strict=True))

    @property
    def size(self) -> int:
        """Number of rows."""
        return self._core.shape[0]

    def project(self, vector: Tensor) -> Tensor:
        """Reduce every tensor to its core, then apply the rows."""
        sides, core = self._matrices(vector)
        return core @ reduce_to_core(self._layout, vector, sides)

    def lift(self, code: Tensor) -> Tensor:
        """Apply the transposes in the opposite order."""
        sides, core = self._matrices(code)
        values = core.T @ code
        parts = values.split([short * kept for (short, _), kept in zip(self._shapes, self._kept, strict=True)])
        lifted = []
        for piece, side, part in zip(self._layout.tensors, sides, parts, strict=True):
            matrix = part.view(-1, side.shape[0]) @ side
            lifted.append((matrix.T if long_first(piece) else matrix).reshape(-1))
        return torch.cat(lifted)

    def only(self, chosen: Tensor) -> "TuckerRows":
        """Some of the core's rows, with all sides."""
        return TuckerRows(self._layout, self._width, self._sides, self._core[chosen])

    def arrays(self) -> dict[str, Tensor]:
        """Sides and core: 2 bytes a value."""
        return {"sides": self._sides.clone(), "core": self._core.clone()}

    def _matrices(self, like: Tensor) -> tuple[list[Tensor], Tensor]:
        key = (like.device, like.dtype)
        if key not in self._cache:
            sizes = [kept * side for kept, (_, side) in zip(self._kept, self._shapes, strict=True)]
            pieces = _unstored(self._sides, like).split(sizes)
            sides = [p.view(kept, -1) for p, kept in zip(pieces, self._kept, strict=True)]
            self._cache[key] = (sides, _unstored(self._core, like))
        return self._cache[key]


class TangentRows(Rows):
    """Rows that are never written down: ``Q = Wᵀ J`` with ``J`` the loss gradients of public sequences at ``point``.

    ``Q x`` is one forward-mode product (the slopes of all losses along x), ``Qᵀ c`` one backward pass. Both use the
    adapter's own precision.

    Args:
        layout: the adapter.
        point: the released adapter at which the gradients are taken, shape ``[n]``.
        tokens: int32, shape ``[losses, sequences, length]``, see ``Tangents``.
        spans: int32, shape ``[losses, sequences, 2]``.
        weights: ``W``, shape ``[losses, k]``.
        tangents: the model; without it the rows can be kept and sent, not applied.

    Raises:
        ValueError: shapes do not fit each other.

    """

    name = "tangents"

    def __init__(
        self,
        layout: Layout,
        point: Tensor,
        tokens: Tensor,
        spans: Tensor,
        weights: Tensor,
        tangents: Tangents | None = None,
    ) -> None:
        shapes = (tuple(point.shape), tuple(spans.shape), weights.shape[:1])
        if shapes != ((layout.size,), (*tokens.shape[:2], 2), tokens.shape[:1]):
            raise ValueError(f"codec 'subspace': arrays 'point', 'spans', 'weights' have shapes {shapes}")
        self._layout, self._tangents = layout, tangents
        self._point = point.detach().cpu().float().clone()
        self._weights = torch.empty(weights.shape).copy_(weights.detach())  # one order in memory, hence one rounding
        self._tokens, self._spans = tokens.to(torch.int32).clone(), spans.to(torch.int32).clone()

    @property
    def size(self) -> int:
        """Number of rows."""
        return self._weights.shape[1]

    def project(self, vector: Tensor) -> Tensor:
        """One forward-mode product, then the weights."""
        slopes = self._model().push(self._point, self._tokens, self._spans, vector.float())
        return self._weights.to(vector).T @ slopes.to(vector)

    def lift(self, code: Tensor) -> Tensor:
        """The weights, then one backward pass."""
        weights = self._weights.to(code) @ code
        return self._model().pull(self._point, self._tokens, self._spans, weights.float()).to(code)

    def only(self, chosen: Tensor) -> "TangentRows":
        """Some columns of the weights."""
        weights = self._weights[:, chosen]
        return TangentRows(self._layout, self._point, self._tokens, self._spans, weights, self._tangents)

    def arrays(self) -> dict[str, Tensor]:
        """Point, sequences and weights: no row."""
        return {
            "point": self._point.clone(),
            "tokens": self._tokens.clone(),
            "spans": self._spans.clone(),
            "weights": self._weights.clone(),
        }

    def bound(self, tangents: Tangents) -> "TangentRows":
        """The same rows with the model at hand."""
        return TangentRows(self._layout, self._point, self._tokens, self._spans, self._weights, tangents)

    def _model(self) -> Tangents:
        if self._tangents is None:
            raise RuntimeError("these rows are made of a model's gradients: bind them to the model first")
        return self._tangents


def long_side(piece: TensorSlice) -> tuple[int, int]:
    """A tensor's number of values beside its longest side, and that side's length."""
    side = max(piece.shape)
    return piece.size // side, side


def long_first(piece: TensorSlice) -> bool:
    """Whether the longest side is a matrix's first, so that it must be transposed."""
    return len(piece.shape) == 2 and piece.shape[0] > piece.shape[1]


def as_matrix(piece: TensorSlice, vector: Tensor) -> Tensor:
    """A tensor of a flat vector (or of a batch of them, ``[..., n]``) with its long side last."""
    part = vector[..., piece.offset : piece.end]
    if long_first(piece):
        return part.reshape(*part.shape[:-1], *piece.shape).transpose(-1, -2)
    return part.reshape(*part.shape[:-1], -1, max(piece.shape))


def reduce_to_core(layout: Layout, vector: Tensor, sides: Sequence[Tensor]) -> Tensor:
    """Multiply every tensor's long side by its directions and concatenate: ``[..., n]`` to ``[..., core]``."""
    cores = [as_matrix(piece, vector) @ side.T for piece, side in zip(layout.tensors, sides, strict=True)]
    return torch.cat([core.reshape(*core.shape[:-2], -1) for core in cores], dim=-1)


def _check_size(name: str, array: Tensor, size: int) -> None:
    if tuple(array.shape) != (size,):
        raise ValueError(f"codec 'subspace': array '{name}' has shape {tuple(array.shape)}, expected ({size},)")


def _stored(values: Tensor) -> Tensor:
    """Rows as they travel; what is in float16 already is what has traveled."""
    scaled = values.detach().cpu() * (1.0 if values.dtype == torch.float16 else STORED_SCALE)
    return torch.empty(values.shape, dtype=torch.float16).copy_(scaled)


def _unstored(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like).div_(STORED_SCALE)
