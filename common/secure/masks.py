"""Masks: what pairs of clients add and subtract modulo 2^m, so that only a sum over all of them can be read.

Arithmetic is modulo 2^``bits``; a masked message is uniform there for whoever lacks one of its pair secrets.
"""

import hmac
import math
from collections.abc import Iterable, Sequence

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from numpy.typing import NDArray

Words = NDArray[np.uint64]
MOST_BITS = 62
_SIGMAS = 12.0  # a sum leaves the modulus with a probability below 1e-32 a value, which would spoil it and tell nothing
_AT_ONCE = 1 << 20  # bytes of streams
_NONCE = bytes(16)  # a seed serves for one stream


def modulus_bits(largest: float, std: float) -> int:
    """The smallest m such that sums of magnitude up to ``largest`` with noise of ``std`` are read back modulo 2^m.

    Twelve standard deviations have room. Raises ``ValueError`` above 62 bits.
    """
    bits = max(1, math.ceil(math.log2(2 * (largest + _SIGMAS * std) + 1)))
    if not bits <= MOST_BITS:
        raise ValueError(f"a sum of up to {largest:g} with noise of {std:g} needs {bits} bits, more than {MOST_BITS}")
    return bits


def seed_of(secret: bytes, context: bytes) -> bytes:
    """The 32-byte seed of a pair for one ``context``: HKDF-Expand with SHA-256 (RFC 5869), its first block."""
    return hmac.digest(secret, context + b"\x01", "sha256")


def stream(seed: bytes, size: int, bits: int) -> Words:
    """``size`` values that look uniform modulo 2^``bits`` to whoever lacks the seed (ChaCha20), shape ``[size]``."""
    return _sum_of_streams([seed], size, bits) & _mask(bits)


def pair_masks(own: int, seeds: Iterable[tuple[int, bytes]], size: int, bits: int) -> Words:
    """What member ``own`` adds for its pairs, given as (other member, seed): plus where it is the lower of the two.

    Summed over both ends of every pair it is 0 modulo 2^``bits``. Shape ``[size]``.
    """
    above, below = list[bytes](), list[bytes]()
    for other, seed in seeds:
        (above if own < other else below).append(seed)
    return (_sum_of_streams(above, size, bits) - _sum_of_streams(below, size, bits)) & _mask(bits)


def masked(values: NDArray[np.int64], masks: Words, bits: int) -> Words:
    """Integers of either sign plus masks, modulo 2^``bits``."""
    return (values.astype(np.uint64) + masks) & _mask(bits)


def total_of(messages: Iterable[Words], size: int, bits: int) -> Words:
    """The sum of messages modulo 2^``bits``, shape ``[size]``."""
    total = np.zeros(size, dtype=np.uint64)
    for message in messages:
        total += message
    return total & _mask(bits)


def centered(total: Words, bits: int) -> NDArray[np.int64]:
    """The integers from -2^(bits-1) up to, not including, 2^(bits-1) that a sum modulo 2^``bits`` stands for."""
    half = np.uint64(1 << (bits - 1))
    return ((total + half) & _mask(bits)).astype(np.int64) - np.int64(half)


def _sum_of_streams(seeds: Sequence[bytes], size: int, bits: int) -> Words:
    """The sum of streams, right modulo 2^``bits``; some at a time, since a call for each costs more than the cipher."""
    width = 4 if bits <= 32 else 8
    zeros, at_once = bytes(width * size), max(1, _AT_ONCE // max(1, width * size))
    total = np.zeros(size, dtype=np.uint64)
    for start in range(0, len(seeds), at_once):
        ciphers = (Cipher(ChaCha20(seed, _NONCE), mode=None) for seed in seeds[start : start + at_once])
        data = b"".join(cipher.encryptor().update(zeros) for cipher in ciphers)
        total += np.frombuffer(data, f"<u{width}").reshape(-1, size).sum(axis=0, dtype=np.uint64)
    return total


def _mask(bits: int) -> np.uint64:
    return np.uint64((1 << bits) - 1)
