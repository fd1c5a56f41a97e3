"""Values modulo 2^m as m bits each: what a masked message has no bit to spare of."""

import numpy as np

from common.secure.masks import MOST_BITS, Words

_CHUNK = 8 * 4096  # values at a time: a multiple of 8, so that every chunk but the last ends with a byte


def packed_bytes(size: int, bits: int) -> int:
    """Bytes that ``size`` values of ``bits`` bits take."""
    return (size * bits + 7) // 8


def pack(values: Words, bits: int) -> bytes:
    """Values below 2^``bits``, shape ``[size]``, the lowest bit of each first."""
    return b"".join(_pack(values[start : start + _CHUNK], bits) for start in range(0, values.size, _CHUNK))


def unpack(data: bytes, size: int, bits: int) -> Words:
    """The inverse of ``pack``; ``ValueError`` for another length, or bits behind the last value."""
    if not 1 <= bits <= MOST_BITS:
        raise ValueError(f"{bits} bits, expected 1 to {MOST_BITS}")
    if len(data) != packed_bytes(size, bits):
        raise ValueError(f"{len(data)} bytes, expected {packed_bytes(size, bits)} for {size} values of {bits} bits")
    if size * bits % 8 and data[-1] >> (size * bits % 8):
        raise ValueError("bits behind the last value")
    raw = np.frombuffer(data, dtype=np.uint8)
    starts = range(0, size, _CHUNK)
    parts = [_unpack(raw[start * bits // 8 : packed_bytes(min(start + _CHUNK, size), bits)], bits) for start in starts]
    return np.concatenate(parts)[:size] if parts else np.zeros(0, dtype=np.uint64)


def _pack(values: Words, bits: int) -> bytes:
    columns = values.astype("<u8").view(np.uint8).reshape(values.size, 8)
    return np.packbits(np.unpackbits(columns, axis=1, bitorder="little")[:, :bits], bitorder="little").tobytes()


def _unpack(raw: np.ndarray, bits: int) -> Words:
    found = np.unpackbits(raw, bitorder="little")
    rows = found[: found.size // bits * bits].reshape(-1, bits)
    wide = np.zeros((len(rows), 64), dtype=np.uint8)
    wide[:, :bits] = rows
    return np.packbits(wide, axis=1, bitorder="little").view("<u8").reshape(-1).astype(np.uint64)
