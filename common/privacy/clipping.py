"""Flat ℓ2 clipping: the only way to obtain a vector of bounded sensitivity.

The whole code of a client is clipped as one vector. Clipping its ``n_t`` tensors one by one, as the paper's
equations (1) and (2) do, would leave a joint sensitivity of ``C·√n_t``.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.privacy.bounds import LARGEST_BOUND, SMALLEST_BOUND
from common.privacy.norms import norm

TOLERANCE = 1e-6
"""Relative float32 rounding allowed above the bound; the integer grid of a release removes it again."""


class NonFiniteError(ValueError):
    """A vector that was to be clipped holds NaN or an infinity: it has no norm to speak of."""


@dataclass(frozen=True)
class Clipped:
    """A float32 vector of shape ``[size]`` whose ℓ2 norm is at most ``bound`` (code units).

    Raises ``ValueError`` on construction if the norm exceeds ``bound·(1 + 1e-6)``, ``NonFiniteError`` if a
    value is not finite, ``TypeError`` for another dtype: what has not been clipped cannot be passed off as
    clipped.
    """

    values: Tensor
    bound: float

    def __post_init__(self) -> None:
        check_bound(self.bound)
        if self.values.dtype != torch.float32 or self.values.dim() != 1:
            raise TypeError(f"clipped values must be 1-D float32, not {self.values.dim()}-D {self.values.dtype}")
        values = self.values.numpy().astype(np.float64)
        _check_finite(values)
        length = norm(values)
        if length > self.bound * (1 + TOLERANCE):
            raise ValueError(f"vector of norm {length:.6g} is not clipped to {self.bound:.6g}")


def clip(vector: Tensor, bound: float, *, normalize: bool = False) -> Clipped:
    """Scale ``vector`` down to an ℓ2 norm of at most ``bound``; with ``normalize``, to exactly ``bound``.

    ``vector`` may have any shape (0-d and empty too), any real dtype, and is left untouched; the result is
    flat. A zero vector stays zero in both modes, so under zero-out adjacency the sensitivity is ``bound`` in
    both. The norm is taken in float64 relative to the largest magnitude: neither 1e-30 nor 1e30 under- or
    overflows.

    Raises ``NonFiniteError`` for NaN or infinities, ``ValueError`` for a bound outside 1e-30..1e30,
    ``TypeError`` for complex values. Source: Algorithm 2 of the paper, applied to the concatenated code.

    >>> clip(torch.tensor([3.0, 4.0]), 1.0).values, clip(torch.tensor([0.3, 0.4]), 1.0).values
    (tensor([0.6000, 0.8000]), tensor([0.3000, 0.4000]))
    >>> clip(torch.tensor([0.3, 0.4]), 1.0, normalize=True).values
    tensor([0.6000, 0.8000])
    """
    check_bound(bound)
    if vector.is_complex():
        raise TypeError("only real vectors can be clipped")
    flat = vector.detach().cpu().double().reshape(-1).numpy()
    _check_finite(flat)
    peak = float(np.abs(flat).max()) if flat.size else 0.0
    unit = flat / (peak or 1.0)
    largest = bound / (norm(unit) or 1.0)  # magnitude of a vector of this direction at the bound
    clipped = unit * largest  # whether it is needed or not: how long this takes tells of no norm, and of no zero code
    wanted = clipped if normalize or peak > largest else flat
    return Clipped(torch.from_numpy(wanted.astype(np.float32)), bound)


def check_bound(bound: float) -> None:
    """Raise ``ValueError`` unless ``bound`` is a usable clip norm."""
    if not (math.isfinite(bound) and SMALLEST_BOUND <= bound <= LARGEST_BOUND):
        raise ValueError(f"clip norm must lie in {SMALLEST_BOUND:g}..{LARGEST_BOUND:g}, not {bound}")


def _check_finite(values: NDArray[np.float64]) -> None:
    broken = values.size - int(np.count_nonzero(np.isfinite(values)))
    if broken:
        raise NonFiniteError(f"{broken} of {values.size} values are NaN or infinite")
