"""The adapter as a function of the released sums: the server computes it so, and so does every client that has them.

After round t the adapter is ``W_t = step(W_(t-1), factor * decode_t(sum_t * unit / denominator))``, where ``sum_t`` is
what the rounds have released (docs/privacy.md) and everything else is public: the initial adapter and the codec follow
from seeds, the rest is in ``StepTerms``. A sum is k integers; an adapter is n floats. So sums are what is sent.

Both sides use the functions here, and these use only operations that IEEE 754 rounds one by one: the same sums give
the same bits on every processor.
"""

import hashlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.codecs.base import Codec
from common.optimizer import AdapterOptimizer

FINENESS = 2  # grid steps of a rounded sum in its root mean square
_DIGEST_BYTES = 8


@dataclass(frozen=True, eq=False)
class RoundSum:
    """The released sum of a round's codes.

    Attributes:
        round: the round that released it, from 1.
        step: units of the grid that one integer stands for; 0 where the values are float32 code units (no noise).
        values: shape ``[k]``: int64 multiples of ``step``, or float32.

    """

    round: int
    step: int
    values: NDArray[Any]

    @classmethod
    def of(cls, number: int, total: NDArray[Any]) -> "RoundSum":
        """Round a released sum of integers (shape ``[k]``) to a grid of its own; a sum of floats stays as it is.

        A step is half of the sum's root mean square. Rounding then adds 1/48 of the sum's energy as an error without
        bias, and a value takes about three bits whatever the run. It is a function of what is released anyway, so it
        costs no privacy; the server steps along the rounded sum like everybody else.
        """
        if total.dtype.kind == "f":
            return cls(number, 0, total.astype(np.float32))
        step = max(1, math.floor(math.sqrt(np.mean(np.square(total.astype(np.float64)))) / FINENESS))
        return cls(number, step, np.rint(total / step).astype(np.int64))


@dataclass(frozen=True)
class StepTerms:
    """How a sum becomes a step; the same in every round of a run.

    Attributes:
        unit: code units of one step of the releases' grid.
        denominator: the expected cohort.
        factor: by what a decoded code is multiplied (``Recipe.step_factor``).
        optimizer: ``sgd``, ``momentum`` or ``adam``.
        learning_rate: of the server.

    """

    unit: float
    denominator: float
    factor: float
    optimizer: str
    learning_rate: float

    def __post_init__(self) -> None:
        numbers = (self.unit, self.denominator, self.factor, self.learning_rate)
        if not all(math.isfinite(number) and number > 0 for number in numbers):
            raise ValueError(f"unit, denominator, factor and learning rate must be positive and finite, not {numbers}")

    def start(self, initial: Tensor) -> AdapterOptimizer:
        """An optimizer at the initial adapter (shape ``[n]``), on the CPU."""
        return AdapterOptimizer(self.optimizer, self.learning_rate, initial.cpu())

    def code(self, summed: RoundSum) -> Tensor:
        """Eq (5): the clients' mean code (shape ``[k]``, float32), their sum over a fixed denominator."""
        units = summed.values * (summed.step * self.unit) if summed.step else summed.values
        return torch.from_numpy(units.astype(np.float32)) / self.denominator

    def gradient(self, codec: Codec, code: Tensor) -> Tensor:
        """The gradient (shape ``[n]``) that a mean code is decoded to, at the length that the gradients had."""
        return self.factor * codec.decode(code)

    def advance(self, optimizer: AdapterOptimizer, sums: Iterable[RoundSum], codec_of: Callable[[int], Codec]) -> None:
        """Take the steps of some rounds; ``codec_of`` gives the codec of a round."""
        for summed in sums:
            optimizer.step(self.gradient(codec_of(summed.round), self.code(summed)))


def epoch_of(server_round: int, refresh_every: int) -> int:
    """Which draw of a seeded codec a round uses: a new one every ``refresh_every`` rounds, 0 for none.

    >>> [epoch_of(number, 2) for number in range(6)], epoch_of(9, 0)
    ([0, 0, 0, 1, 1, 2], 0)
    """
    return max(0, server_round - 1) // refresh_every if refresh_every else 0


def adapter_digest(adapter: Tensor) -> bytes:
    """Eight bytes by which two parties tell that they have the same adapter (shape ``[n]``), bit for bit."""
    data = adapter.detach().cpu().contiguous().numpy().astype("<f4", copy=False)
    return hashlib.blake2b(data.data, digest_size=_DIGEST_BYTES).digest()
