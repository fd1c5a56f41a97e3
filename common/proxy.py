"""FEDLPP's quantizer Q (arXiv 2406.10976): an adapter as w-bit level numbers, packed, and two floats a tensor.

The paper maps LoRA's values "into discrete standard numbers" and does not print Q. Here each tensor has 2^w levels,
evenly spaced from its smallest to its largest value.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from common.adapter import Layout

MOST_BITS = 8


@dataclass(frozen=True, eq=False)
class QuantizedAdapter:
    """What a client gets in place of the adapter: level numbers of ``size`` values, packed, and the tensors' ranges.

    Attributes:
        bits: w, 1 to 8.
        size: number of values ``n``.
        codes: level numbers, w bits each, little-endian within the bytes: uint8 of shape ``[ceil(n w / 8)]``.
        ranges: lowest and highest level of each tensor: float32 of shape ``[n_t, 2]``.

    Raises:
        ValueError: anything inconsistent.

    """

    bits: int
    size: int
    codes: Tensor
    ranges: Tensor

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= MOST_BITS:
            raise ValueError(f"quantized adapter: bits = {self.bits}, expected 1 to {MOST_BITS}")
        if self.size < 1:
            raise ValueError(f"quantized adapter: size = {self.size}, expected at least 1")
        needed = packed_bytes(self.size, self.bits)
        if self.codes.dtype != torch.uint8 or tuple(self.codes.shape) != (needed,):
            held = f"{self.codes.dtype} of shape {tuple(self.codes.shape)}"
            raise ValueError(f"quantized adapter: codes are {held}, expected {needed} bytes")
        padding = 8 * needed - self.size * self.bits
        if int(self.codes[-1]) >> (8 - padding):
            raise ValueError(f"quantized adapter: the last {padding} bits are padding and must be 0")
        ranges = self.ranges
        if ranges.dtype != torch.float32 or ranges.dim() != 2 or ranges.shape[1] != 2:
            raise ValueError(f"quantized adapter: ranges are {ranges.dtype} of shape {tuple(ranges.shape)}")
        if not (torch.isfinite(ranges).all() and (ranges[:, 0] <= ranges[:, 1]).all()):
            raise ValueError("quantized adapter: a range is not finite, or its ends are swapped")

    @property
    def nbytes(self) -> int:
        """Bytes of level numbers and ranges."""
        return len(self.codes) + self.ranges.numel() * 4

    def dequantize(self, layout: Layout) -> Tensor:
        """The proxy (shape ``[n]``, float32); ``ValueError`` when this is no adapter of ``layout``."""
        if (self.size, len(self.ranges)) != (layout.size, len(layout.tensors)):
            raise ValueError(
                f"quantized adapter has {self.size} values in {len(self.ranges)} tensors, but the adapter has "
                f"{layout.size} in {len(layout.tensors)}"
            )
        numbers = unpack(self.codes, self.size, self.bits)
        tables = _tables(self.ranges, self.bits)
        pieces = zip(layout.tensors, tables, strict=True)
        return torch.cat([table[numbers[piece.offset : piece.end]] for piece, table in pieces])


def quantize(adapter: Tensor, layout: Layout, bits: int, seed: int | None = None) -> QuantizedAdapter:
    """Q(adapter): every value (shape ``[n]``) goes to the nearest level of its tensor.

    With a ``seed`` it goes to one of the two levels around it at random, so that its expectation is the value itself.
    What is on a level stays there either way, so quantizing a proxy again gives that proxy. A value that is not finite
    raises ``ValueError``.
    """
    tensors = [adapter[piece.offset : piece.end].float() for piece in layout.tensors]
    ranges = torch.stack([torch.stack([values.min(), values.max()]) for values in tensors])
    tables = _tables(ranges, bits)
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    numbers = [_numbers(values, table, generator) for values, table in zip(tensors, tables, strict=True)]
    return QuantizedAdapter(bits, layout.size, pack(torch.cat(numbers), bits), ranges)


def packed_bytes(size: int, bits: int) -> int:
    """Bytes that ``size`` numbers of ``bits`` bits take.

    >>> packed_bytes(3, 2), packed_bytes(5, 2)
    (1, 2)
    """
    return (size * bits + 7) // 8


def pack(numbers: Tensor, bits: int) -> Tensor:
    """Pack numbers below 2^``bits`` (shape ``[n]``) into uint8 of shape ``[packed_bytes(n, bits)]``.

    >>> unpack(pack(torch.tensor([3, 0, 2]), 2), 3, 2)
    tensor([3, 0, 2])
    """
    planes = (numbers.numpy()[:, None] >> np.arange(bits)) & 1
    return torch.from_numpy(np.packbits(planes.astype(np.uint8), bitorder="little"))


def unpack(codes: Tensor, size: int, bits: int) -> Tensor:
    """The inverse of ``pack``: int64 of shape ``[size]``."""
    planes = np.unpackbits(codes.numpy(), count=size * bits, bitorder="little").reshape(size, bits)
    return torch.from_numpy(planes @ (1 << np.arange(bits)))


def _tables(ranges: Tensor, bits: int) -> Tensor:
    """The levels of each tensor, shape ``[n_t, 2^bits]``, float32; both ends come out exactly."""
    share, ends = torch.linspace(0, 1, 2**bits, dtype=torch.float64), ranges.double()
    return (ends[:, :1] * (1 - share) + ends[:, 1:] * share).float()


def _numbers(values: Tensor, table: Tensor, generator: torch.Generator | None) -> Tensor:
    """Level number of every value (shape as ``values``, int64)."""
    exact = table.double()
    if generator is None:
        return torch.bucketize(values.double(), (exact[1:] + exact[:-1]) / 2)
    below = (torch.bucketize(values, table, right=True) - 1).clamp(0, len(table) - 2)
    low, high = exact[below], exact[below + 1]
    share = torch.where(high > low, (values.double() - low) / (high - low), 0.0)
    return below + (torch.rand(len(values), generator=generator, dtype=torch.float64) < share)
