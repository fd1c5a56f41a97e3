"""What shrinks an adapter vector: ``Encoder`` (on clients), ``Codec`` (on the server), and how each travels.

An encoder maps the flat adapter vector (``n`` values, see ``common.adapter``) to a code (``k`` values). A
client gets an ``EncoderSpec`` and rebuilds the encoder from it; a decoder never leaves the server (paper,
Section 3.2). For a seeded linear codec that hides nothing: its decoder is the transpose of its encoder, hence
public.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, Self, TypeVar

import torch
from torch import Tensor

from common.adapter import Layout

Scalar = int | float | str
ScalarType = TypeVar("ScalarType", int, float, str)


@dataclass(frozen=True, eq=False)
class _Parcel:
    """A kind, its format version, named scalars and named tensors."""

    kind: str
    version: int
    fields: Mapping[str, Scalar] = field(default_factory=dict)
    arrays: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.numel() * array.element_size() for array in self.arrays.values())

    def value(self, name: str, kind: type[ScalarType]) -> ScalarType:
        """Return the scalar ``name``; missing or of another type raises ``ValueError``."""
        found = self.fields.get(name)
        if kind is float and type(found) is int:
            found = float(found)
        if type(found) is not kind:
            raise ValueError(f"codec '{self.kind}': field '{name}' is {found!r}, expected {kind.__name__}")
        return found

    def array(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Return the array ``name``; missing or of another shape (-1: any extent) raises ``ValueError``."""
        found = self.arrays.get(name)
        if found is None:
            raise ValueError(f"codec '{self.kind}': array '{name}' is missing")
        fits = found.dim() == len(shape) and all(
            want in (-1, got) for want, got in zip(shape, found.shape, strict=True)
        )
        if not fits:
            raise ValueError(f"codec '{self.kind}': array '{name}' has shape {tuple(found.shape)}, expected {shape}")
        return found


class EncoderSpec(_Parcel):
    """All that a client needs to rebuild the *encoder*, and nothing of the decoder."""


class CodecState(_Parcel):
    """All that a checkpoint needs to rebuild the whole codec, decoder included. Never sent to a client."""


class Encoder(ABC):
    """Maps an adapter vector of ``dim`` = n values to a code of ``size`` = k values."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """Number of values ``n`` of the adapter vector."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of values ``k`` of the code."""

    @abstractmethod
    def encode(self, vector: Tensor) -> Tensor:
        """Encode ``vector`` (shape ``[n]``) as a code (shape ``[k]``) on the vector's device.

        The code is float32, or float64 for a float64 vector; another shape raises ``ValueError``.
        """

    @abstractmethod
    def spec(self) -> EncoderSpec:
        """Describe what travels to a client; ``build_encoder(spec, layout)`` encodes identically."""

    def redraw(self, epoch: int) -> Self:
        """Return the encoder with the subspace of ``epoch``; an encoder without a seed returns itself.

        The subspace is a function of (seed, epoch) alone, whichever epoch the encoder had; epoch 0 is the
        first.
        """
        return self


class Codec(Encoder):
    """An encoder together with its decoder: the server's view.

    Attributes:
        seeded: whether the decoder is linear and follows from the specification, so that clients may have it, and gives
            the same bits everywhere: its values are products and single sums, each rounded by itself. Clients are then
            sent the sums of codes that the adapter is made of, in place of the adapter.

    """

    seeded: ClassVar[bool] = False

    @abstractmethod
    def decode(self, code: Tensor) -> Tensor:
        """Decode ``code`` (shape ``[k]``) to an adapter vector (shape ``[n]``) on the code's device.

        The vector is float32, or float64 for a float64 code; another shape raises ``ValueError``.
        """

    def state(self) -> CodecState:
        """Describe what a checkpoint holds; ``codec_from_state(state, layout)`` is identical.

        The same as the spec unless a subclass has more to say: a decoder that is the encoder's transpose has not.
        """
        spec = self.spec()
        return CodecState(spec.kind, spec.version, spec.fields, spec.arrays)


def check_shape(what: str, tensor: Tensor, size: int) -> None:
    """Raise ``ValueError`` naming both shapes unless ``tensor`` has shape ``[size]``."""
    if tuple(tensor.shape) != (size,):
        raise ValueError(f"{what} has shape {tuple(tensor.shape)}, expected ({size},)")


def working(tensor: Tensor) -> Tensor:
    """Cast to the precision codecs compute in: float64 stays, everything else becomes float32."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


class _Loader(NamedTuple):
    """How to rebuild the two halves of one kind of codec, for one version of its format."""

    version: int
    encoder: Callable[[EncoderSpec, Layout], Encoder]
    codec: Callable[[CodecState, Layout], Codec]


_LOADERS: dict[str, _Loader] = {}


def register(
    kind: str,
    version: int,
    encoder: Callable[[EncoderSpec, Layout], Encoder],
    codec: Callable[[CodecState, Layout], Codec],
) -> None:
    """Make a kind of codec known to ``build_encoder`` and ``codec_from_state``."""
    if kind in _LOADERS:
        raise ValueError(f"codec kind '{kind}' is registered twice")
    _LOADERS[kind] = _Loader(version, encoder, codec)


def layout_fields(layout: Layout) -> dict[str, Scalar]:
    """Return the fields by which a parcel says which adapter it is for; checked whenever one is unpacked."""
    return {"dim": layout.size, "layout": layout.digest}


def _loader(parcel: _Parcel, layout: Layout) -> _Loader:
    loader = _LOADERS.get(parcel.kind)
    if loader is None:
        raise ValueError(f"unknown codec kind '{parcel.kind}'; known: {', '.join(sorted(_LOADERS))}")
    if parcel.version != loader.version:
        versions = f"has version {parcel.version}, this code reads version {loader.version}"
        raise ValueError(f"codec '{parcel.kind}' {versions}")
    dim, digest = parcel.value("dim", int), parcel.value("layout", str)
    if dim != layout.size:
        raise ValueError(f"codec '{parcel.kind}' is for {dim} values, but the adapter has {layout.size}")
    if digest != layout.digest:
        digests = f"{digest}, but the adapter has {layout.digest}: other names or shapes"
        raise ValueError(f"codec '{parcel.kind}' is for the adapter layout {digests}")
    return loader


def build_encoder(spec: EncoderSpec, layout: Layout) -> Encoder:
    """Rebuild the encoder that ``spec`` describes.

    An unknown kind, another version, another adapter or a malformed spec raises ``ValueError``.
    """
    return _loader(spec, layout).encoder(spec, layout)


def codec_from_state(state: CodecState, layout: Layout) -> Codec:
    """Rebuild a whole codec from a checkpoint; raises as ``build_encoder`` does."""
    return _loader(state, layout).codec(state, layout)
