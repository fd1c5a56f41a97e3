"""Vectors of integers in the bits that their range needs, rather than in whole bytes.

A value out of ``base`` ones needs log2(base) bits, which is seldom a whole number. So up to four values are taken
together as the digits of one number, which wastes less: out of 20,319 (the demo's code) one value takes 15 bits alone
and 14.33 by threes.
"""

import numpy as np
from numpy.typing import NDArray

_LARGEST_GROUP = 4
_WORD = 63  # bits that a group may have
_CHUNK = 1 << 16  # groups at a time: memory stays small for an adapter of millions of values; a multiple of 8


def packed_size(count: int, base: int) -> int:
    """Bytes of ``count`` values out of ``base``.

    >>> packed_size(256, 20_319), packed_size(8, 2), packed_size(0, 7)
    (463, 1, 0)
    """
    group, bits = _grouping(base)
    return (-(-count // group) * bits + 7) // 8


def pack(values: NDArray[np.int64], base: int) -> bytes:
    """The values (shape ``[count]``, each from 0 up to, not including, ``base``) as ``packed_size`` bytes."""
    group, bits = _grouping(base)
    padded = np.zeros(-(-len(values) // group) * group, dtype=np.uint64)
    padded[: len(values)] = values
    numbers = np.zeros(len(padded) // group, dtype=np.uint64)
    for digit in padded.reshape(-1, group).T[::-1]:
        numbers = numbers * np.uint64(base) + digit
    return b"".join(_bits(numbers[start : start + _CHUNK], bits) for start in range(0, len(numbers), _CHUNK))


def unpack(data: bytes, count: int, base: int) -> NDArray[np.int64]:
    """The inverse of ``pack``; raises ``ValueError`` for bytes that it makes of no ``count`` values."""
    group, bits = _grouping(base)
    if len(data) != packed_size(count, base):
        raise ValueError(f"{len(data)} bytes, expected {packed_size(count, base)} for {count} values out of {base}")
    total = -(-count // group)
    step = _CHUNK * bits // 8
    pieces = [
        _numbers(data[place * step : (place + 1) * step], min(_CHUNK, total - place * _CHUNK), bits)
        for place in range(-(-total // _CHUNK))
    ]
    numbers = np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.uint64)
    digits = np.empty((total, group), dtype=np.int64)
    for column in digits.T:
        numbers, column[:] = np.divmod(numbers, np.uint64(base))
    if numbers.any():
        raise ValueError(f"a value is not out of {base}")
    return digits.reshape(-1)[:count]


def _grouping(base: int) -> tuple[int, int]:
    """Values that are taken together, and the bits of such a group: what costs least a value."""
    sizes = [(group, (base**group - 1).bit_length()) for group in range(1, _LARGEST_GROUP + 1)]
    fitting = [(group, bits) for group, bits in sizes if bits <= _WORD]
    return min(fitting, key=lambda pair: (pair[1] / pair[0], pair[0]))


def _bits(numbers: NDArray[np.uint64], bits: int) -> bytes:
    rows = np.unpackbits(numbers.astype("<u8").view(np.uint8).reshape(-1, 8), axis=1, bitorder="little")
    return np.packbits(rows[:, :bits], bitorder="little").tobytes()


def _numbers(data: bytes, count: int, bits: int) -> NDArray[np.uint64]:
    rows = np.zeros((count, 64), dtype=np.uint8)
    found = np.unpackbits(np.frombuffer(data, np.uint8), count=count * bits, bitorder="little")
    rows[:, :bits] = found.reshape(count, bits)
    return np.packbits(rows, axis=1, bitorder="little").view("<u8").reshape(-1).astype(np.uint64)
