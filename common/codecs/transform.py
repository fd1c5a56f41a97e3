"""Seeded random subspaces with exactly orthonormal rows, applied in O(n) without their matrix.

A dense random orthonormal ``Q`` (k x n) costs k·n values. Here a seed implies ``Q``. ``Buckets`` permutes the
coordinates, flips signs and sums k disjoint groups of n/k coordinates, each sum scaled by one over the root
of the group's size: rows with disjoint supports are orthogonal, so ``Q Qᵀ = I``, and every coordinate is in
one row.

*Quality.* Over draws, E[QᵀQ] = (k/n)·I for every n and k. When k divides n, the captured energy ‖Qx‖² of any
fixed unit vector x has variance v·n/(n-1)·(1-Σx⁴) with v = (k/n)²·(2/k)·(1-k/n); for a Haar-random subspace
it is v·n/(n+2). So for *no* vector is ``Buckets`` worse than dense by more than a factor 1+3/(n-1), and for
concentrated ones it is better. Only the tails differ: when a handful of coordinates hold all of x, two of
them may share a bucket and cancel.

*Streams.* Randomness is the raw output of Philox4x64-10 (Salmon et al., 2011) under the key (seed, epoch);
numpy guarantees that output across platforms and versions, and distinct keys are independent streams. On another
device than the CPU ``philox`` draws the same words there, so a client's GPU and the server's CPU agree to the bit.
"""

from math import sqrt
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.codecs.philox import philox_words, signed

SEED_LIMIT = 2**63
"""Seeds and epochs are in ``0 <= value < SEED_LIMIT``, so that they travel as signed 64-bit integers."""


class Draw(NamedTuple):
    """Which random stream: ``seed`` and ``epoch`` form the Philox key, ``stream`` its counter's high word."""

    seed: int
    epoch: int
    stream: int

    def words(self, count: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
        """``count`` uniform 64-bit words."""
        key = np.array([self.seed, self.epoch], dtype=np.uint64)
        counter = np.array([0, 0, 0, self.stream], dtype=np.uint64)
        words: np.ndarray[tuple[int], np.dtype[np.uint64]] = np.random.Philox(key=key, counter=counter).random_raw(
            count
        )
        return words

    def words_on(self, device: torch.device, count: int) -> Tensor:
        """The same words, as the bits of an int64 tensor on ``device``."""
        if device.type == "cpu":
            return torch.from_numpy(self.words(count).astype(np.int64))
        return philox_words(count, key=(self.seed, self.epoch), high=self.stream, device=device)


def signed_permutation(size: int, draw: Draw) -> tuple[Tensor, Tensor]:
    """Draw a uniform permutation (int64, shape ``[size]``) and uniform signs (float32 ±1, shape ``[size]``).

    Each index is put into the low bits of a random word and the words are sorted. The words are distinct, so
    the order does not depend on the sorting algorithm; the bit above the index is the sign.
    """
    bits = np.uint64(max(1, (size - 1).bit_length()))
    low = (np.uint64(1) << bits) - np.uint64(1)
    words = draw.words(size)
    words &= ~low
    words |= np.arange(size, dtype=np.uint64)
    words.sort()
    order = (words & low).astype(np.int64)
    words >>= bits
    words &= np.uint64(1)
    return torch.from_numpy(order), torch.from_numpy(words.astype(np.float32)).mul_(2).sub_(1)


def permutation_of(words: Tensor) -> tuple[Tensor, Tensor]:
    """Make of words on any device (int64, shape ``[size]``) what ``signed_permutation`` makes of them, bit for bit."""
    size = len(words)
    bits = max(1, (size - 1).bit_length())
    low, top = (1 << bits) - 1, signed(1 << 63)
    words = (words & ~low) | torch.arange(size, device=words.device)
    words = torch.sort(words ^ top).values ^ top  # in unsigned order
    return words & low, ((words >> bits) & 1).float().mul_(2).sub_(1)


class Buckets:
    """Rows with disjoint supports of ⌈n/k⌉ or ⌊n/k⌋ coordinates each, entries ±1/√(support size). O(n).

    An implicit ``dim`` x ``size`` matrix ``Q`` with orthonormal rows, a function of (dim, size, draw) alone.
    """

    def __init__(self, dim: int, size: int, draw: Draw) -> None:
        self.dim, self.size, self._draw = dim, size, draw
        self._tables: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def project(self, vector: Tensor) -> Tensor:
        """Return ``Q x``: shape ``[n]`` to ``[k]``."""
        order, signs = self.tables(vector.device)
        return self._sum_groups(vector.index_select(0, order).mul_(signs))

    def lift(self, code: Tensor) -> Tensor:
        """Return ``Qᵀ c``: shape ``[k]`` to ``[n]``."""
        order, signs = self.tables(code.device)
        return torch.empty_like(signs, dtype=code.dtype).index_copy_(0, order, self._spread(code).mul_(signs))

    def tables(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return permutation and signs on ``device``; drawn there at first use, the same on all devices."""
        if device not in self._tables:
            self._tables[device] = self._draw_tables(device)
        return self._tables[device]

    def _draw_tables(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device.type == "cpu":  # numpy is the faster one there
            return signed_permutation(self.dim, self._draw)
        return permutation_of(self._draw.words_on(device, self.dim))

    def _sum_groups(self, values: Tensor) -> Tensor:
        """Sum and scale the groups; the first n mod k of them have one coordinate more than the others."""
        small, larger = divmod(self.dim, self.size)
        split = larger * (small + 1)
        sums = torch.cat(
            (
                values[:split].view(larger, -1).sum(1) if larger else values[:0],
                values[split:].view(-1, small).sum(1),
            )
        )
        return sums.mul_(self._scales(sums))

    def _spread(self, code: Tensor) -> Tensor:
        """Apply the transpose of ``_sum_groups``."""
        small, larger = divmod(self.dim, self.size)
        scaled = code * self._scales(code)
        return torch.cat((scaled[:larger].repeat_interleave(small + 1), scaled[larger:].repeat_interleave(small)))

    def _scales(self, like: Tensor) -> Tensor:
        small, larger = divmod(self.dim, self.size)
        scales = torch.full_like(like, 1 / sqrt(small))
        scales[:larger] = 1 / sqrt(small + 1)
        return scales
