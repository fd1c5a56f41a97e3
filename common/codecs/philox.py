"""Philox4x64-10 (Salmon et al., 2011) in tensor operations: numpy's own stream, drawn where the adapter lives.

``transform`` draws a permutation of n values in every round. On the CPU that is most of a second at n = 8.4 million,
comparable to a local step of a 7-billion-parameter model on a GPU; there it is a few hundred element-wise kernels.
torch has no unsigned 64-bit arithmetic: words are int64 with the same bits, and products are made of 32-bit halves.
"""

import torch
from torch import Tensor

_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_KEY_STEPS = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_ROUNDS = 10
_LOW = 0xFFFFFFFF


def philox_words(count: int, *, key: tuple[int, int], high: int, device: torch.device) -> Tensor:
    """Return the bits of ``count`` words (int64) that numpy's Philox gives under ``key`` and counter (0, 0, 0, high).

    ``key`` and ``high`` are unsigned 64-bit values. Memory: some ten times ``count`` words.
    """
    blocks = -(-count // 4)
    zeros = torch.zeros(blocks, dtype=torch.int64, device=device)
    words: tuple[Tensor, ...] = (torch.arange(1, blocks + 1, device=device), zeros, zeros, zeros + signed(high))
    for number in range(_ROUNDS):
        keys = [signed(part + number * step) for part, step in zip(key, _KEY_STEPS, strict=True)]
        words = _mix(words, keys)
    return torch.stack(words, dim=1).view(-1)[:count]


def signed(value: int) -> int:
    """The signed 64-bit integer with the bits of ``value`` modulo 2^64."""
    value %= 1 << 64
    return value - (1 << 64) if value >> 63 else value


def _mix(words: tuple[Tensor, ...], keys: list[int]) -> tuple[Tensor, ...]:
    """One round."""
    (high_0, low_0), (high_1, low_1) = _multiply(words[0], _MULTIPLIERS[0]), _multiply(words[2], _MULTIPLIERS[1])
    return high_1 ^ words[1] ^ keys[0], low_1, high_0 ^ words[3] ^ keys[1], low_0


def _multiply(words: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """High and low 64 bits of the unsigned products."""
    top, bottom = factor >> 32, factor & _LOW
    high, low = (words >> 32) & _LOW, words & _LOW
    carried = low * top + ((low * bottom >> 32) & _LOW)  # below 2^64: no carry is lost
    crossed = high * bottom + (carried & _LOW)
    product = high * top + ((carried >> 32) & _LOW) + ((crossed >> 32) & _LOW)
    return product, words * signed(factor)
