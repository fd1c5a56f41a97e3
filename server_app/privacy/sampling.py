"""Poisson sampling of clients, and how large a cohort can become.

Amplification by sampling holds only against those who cannot tell who was selected. Every cohort is therefore drawn
from the operating system's randomness when it is needed, and nothing is kept that could draw it again: a copy of a
run's files tells no cohort, and a round that is asked again asks a cohort of its own. Source: Balle, Barthe, Gaboardi
2018 (arXiv:1807.01647) for amplification.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom


class Coins(Protocol):
    """Independent uniform 64-bit words: ``noise.RandomSource``, the operating system's wherever privacy is claimed."""

    def uint64(self, count: int) -> NDArray[np.uint64]:
        """``count`` of them, shape ``[count]``."""


def poisson_sample(ids: Sequence[int], rate: float, coins: Coins) -> list[int]:
    """Select ids, each with probability ``rate``, independently of one another, order kept; the cohort may be empty.

    A client is selected iff its own 64-bit word of ``coins`` lies below ``rate·2^64``. Raises ``ValueError`` for a
    rate outside 0..1 or for duplicate ids.

    >>> from common.privacy.noise import RandomSource
    >>> poisson_sample(range(10), 0.5, RandomSource.insecure(1))
    [0, 1, 2, 4, 5, 6, 7]
    >>> poisson_sample([1, 2, 3], 1.0, RandomSource.system())
    [1, 2, 3]
    """
    _check_rate(rate)
    if len(set(ids)) != len(ids):
        raise ValueError("client ids must be distinct: a client listed twice would be sampled twice")
    threshold = int(rate * 2**64)
    words = coins.uint64(len(ids)).tolist()
    return [client for client, word in zip(ids, words, strict=True) if word < threshold]


def binomial_limit(trials: int, rate: float, repeats: int, delta: float) -> int:
    """Smallest H that none of ``repeats`` draws of Bin(trials, rate) exceeds, but with probability ``delta``.

    Two uses. The largest cohort that a run of ``repeats`` rounds must be ready for (trials = clients): a *public*
    number of noise shares, since the realized cohort would tell a client coalition whether another client was selected.
    And the most rounds that any of ``repeats`` clients is asked in (trials = rounds).

    >>> binomial_limit(1000, 0.1, 40, 1e-9), binomial_limit(1000, 1.0, 40, 1e-9)
    (168, 1000)
    """
    _check_rate(rate)
    if trials < 0 or repeats < 0 or not 0 < delta < 1:
        raise ValueError(f"need trials >= 0, repeats >= 0, 0 < delta < 1, not {trials}, {repeats}, {delta}")
    if rate in {0.0, 1.0} or repeats == 0:
        return trials if rate == 1.0 else 0
    limit = max(0, int(binom.isf(delta / repeats, trials, rate)) - 1)
    while repeats * float(binom.sf(limit, trials, rate)) > delta:
        limit += 1
    return limit


def _check_rate(rate: float) -> None:
    if not 0 <= rate <= 1:
        raise ValueError(f"the sampling rate must lie in 0..1, not {rate}")
