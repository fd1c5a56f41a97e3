"""Released sums as bytes: near what their entropy allows.

A rounded sum is about Gaussian with a std of two (``RoundSum.of``), so Rice's code (Rice and Plaunt, 1971) fits it: a
value's sign goes into its lowest bit, its lower ``p`` bits are written as they are, the rest in ones and a zero. An
entry is its length, then round and step, then the values: each of them says by itself where it ends, so entries are
simply put one after the other.
"""

from collections.abc import Iterable
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.trajectory import FINENESS, RoundSum
from common.wire import bits

MOST_SUMS = 4096
"""Of one instruction: a step takes a client a hundredth of a local one, and a site limits what it works for a run."""
_MOST_LOW_BITS = 40
_MOST_QUANTILES = 1 << 14
_TYPICAL_STEP = 1 << 12
_MOST_BYTES = 9  # of a number, seven bits each: it stays below 2^63


class Entry(NamedTuple):
    """A sum as it travels: its round and its bytes, length included."""

    round: int
    data: bytes


def pack_sum(summed: RoundSum) -> Entry:
    """A sum (shape ``[k]``) as an entry."""
    values = _rice(summed.values) if summed.step else summed.values.astype("<f4").tobytes()
    body = _number(summed.round) + _number(summed.step) + values
    return Entry(summed.round, _number(len(body)) + body)


def split_sums(data: bytes) -> list[Entry]:
    """The entries of a message, in the order of their rounds; ``ValueError`` for anything else."""
    found: list[Entry] = []
    place = 0
    while place < len(data):
        length, start = _read_number(data, place)
        number, _ = _read_number(data, start)
        if start + length > len(data) or (found and number <= found[-1].round):
            raise ValueError("sums are cut off, or out of order")
        found.append(Entry(number, data[place : start + length]))
        place = start + length
    return found


def unpack_sum(entry: Entry, size: int) -> RoundSum:
    """The inverse of ``pack_sum`` for a code of ``size`` values; ``ValueError`` for what is none."""
    _, start = _read_number(entry.data, 0)
    number, start = _read_number(entry.data, start)
    step, start = _read_number(entry.data, start)
    body = entry.data[start:]
    if len(body) > 4 * size + 1:  # before ones and zeros are counted: Rice's code takes ten bits a value at most
        raise ValueError(f"a sum of {len(body)} bytes, for {size} values")
    if step:
        return RoundSum(number, step, _read_rice(body, size))
    if len(body) != 4 * size:
        raise ValueError(f"a sum of {len(body)} bytes, expected {size} values of float32")
    return RoundSum(number, 0, np.frombuffer(body, "<f4").astype(np.float32))


def typical_size(size: int, *, noisy: bool) -> int:
    """Bytes of the sum of a round with codes of ``size`` values, before there is any: quantiles of its law."""
    if not noisy:
        return len(pack_sum(RoundSum(1, 0, np.zeros(size, dtype=np.float32))).data)
    normal, count = NormalDist(0, FINENESS), min(size, _MOST_QUANTILES)
    quantiles = [normal.inv_cdf((place + 0.5) / count) for place in range(count)]
    values = np.rint(quantiles).astype(np.int64)[np.arange(size) * count // size]
    return len(pack_sum(RoundSum(1, _TYPICAL_STEP, values)).data)


def _rice(values: NDArray[np.int64]) -> bytes:
    folded = np.where(values < 0, -2 * values - 1, 2 * values)
    low = min(range(_MOST_LOW_BITS), key=lambda count: count * len(folded) + int((folded >> count).sum()))
    ends = np.cumsum((folded >> low) + 1)
    unary = np.ones(int(ends[-1]), dtype=np.uint8)
    unary[ends - 1] = 0
    lower = bits.pack(folded & ((1 << low) - 1), 1 << low) if low else b""
    return bytes([low]) + lower + np.packbits(unary, bitorder="little").tobytes()


def _read_rice(data: bytes, size: int) -> NDArray[np.int64]:
    low = data[0] if data else _MOST_LOW_BITS
    if low >= _MOST_LOW_BITS:
        raise ValueError("a sum without its values")
    length = bits.packed_size(size, 1 << low) if low else 0
    unary = np.unpackbits(np.frombuffer(data[1 + length :], np.uint8), bitorder="little")
    ends = np.flatnonzero(unary == 0)[:size]
    if len(ends) < size or (int(ends[-1]) + 8) // 8 != len(data) - 1 - length:
        raise ValueError(f"a sum of other than {size} values")
    lower = bits.unpack(data[1 : 1 + length], size, 1 << low) if low else np.zeros(size, dtype=np.int64)
    folded = ((np.diff(ends, prepend=-1) - 1) << low) | lower
    return np.where(folded & 1, -(folded >> 1) - 1, folded >> 1)


def _number(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the highest bit says that more follow."""
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def _read_number(data: bytes, place: int) -> tuple[int, int]:
    """A number, and where the next byte is."""
    value = 0
    for count in range(_MOST_BYTES):
        if place + count >= len(data):
            break
        byte = data[place + count]
        value |= (byte & 0x7F) << (7 * count)
        if byte <= 0x7F:
            return value, place + count + 1
    raise ValueError("a number in a sum has no end")


def joined(entries: Iterable[Entry]) -> bytes:
    """Entries as a message has them."""
    return b"".join(entry.data for entry in entries)
