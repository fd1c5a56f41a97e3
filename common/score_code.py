"""One client's scores as a code of norm 1 at most, and the mean of such codes as scores: for private evaluation.

Loss is clipped to ``LOSS_BOUND``; both scores are mapped to [-1, 1], so that the middle of their range is zero, which
halves what noise does to them, and divided by √2, so that the code as a whole is in the unit ball whatever a client
holds. A client is one vote: how many rows it has is in neither value. Who answers nothing, or with nothing of its own,
counts as the middle of both ranges, since the sum is divided by the number of enrolled clients, which is public.
"""

import math

import torch
from torch import Tensor

LOSS_BOUND = 6.0
"""Nats per token; above it a client's loss counts as this much."""

SIZE = 2
_HALVES = (LOSS_BOUND / 2, 0.5)
_NORM = math.sqrt(SIZE)


def encode_scores(loss: float, accuracy: float) -> Tensor:
    """Loss (nats per token) and accuracy (0..1) of one client as a code, shape ``[2]``; NaN stays NaN.

    >>> encode_scores(9.0, 0.5).tolist()
    [0.7071067690849304, 0.0]
    """
    scores = torch.tensor([min(max(loss, 0.0), LOSS_BOUND) if not math.isnan(loss) else loss, accuracy])
    halves = torch.tensor(_HALVES)
    return (scores / halves - 1) / _NORM


def decode_scores(mean: Tensor) -> tuple[float, float]:
    """Mean loss and mean accuracy of a mean of codes (shape ``[2]``); noise may take either out of its range.

    >>> decode_scores(encode_scores(3.0, 0.5))
    (3.0, 0.5)
    """
    loss, accuracy = ((1 + _NORM * float(value)) * half for value, half in zip(mean, _HALVES, strict=True))
    return loss, accuracy


def score_errors(std: float) -> tuple[float, float]:
    """Standard deviations of loss and accuracy where each value of the mean of codes has noise of ``std``."""
    return std * _NORM * _HALVES[0], std * _NORM * _HALVES[1]
