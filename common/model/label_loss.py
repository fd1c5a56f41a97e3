"""The loss of label tokens in little memory: a wide vocabulary makes logits the largest tensors of a step.

The gradient by the logits is known as soon as their softmax is. So it is made on the way forward, a few places at a
time, and kept in the logits' own type: no copy of all logits in float32, no logarithms of all probabilities.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import log_softmax

PIECE = 1 << 22
"""Logits that are worked on at a time; three tensors of so many float32 values are alive then."""


def label_loss(logits: Tensor, targets: Tensor, total: int) -> Tensor:
    """Cross-entropy summed over places and divided by ``total``: a scalar, float32.

    Equal to ``cross_entropy(logits.float(), targets, reduction="sum") / total``, gradient included.

    Args:
        logits: shape ``[places, words]``, of any floating type.
        targets: word numbers, shape ``[places]``.
        total: label tokens of the whole step.

    """
    loss: Tensor = _LabelLoss.apply(logits, targets, total)
    return loss


class _LabelLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, total: int) -> Tensor:  # noqa: ANN401 - torch's own
        loss = torch.zeros((), dtype=torch.float32, device=logits.device)
        gradient = torch.empty_like(logits)
        size = max(1, PIECE // logits.shape[1])
        for piece, wanted, into in zip(logits.split(size), targets.split(size), gradient.split(size), strict=True):
            logs = log_softmax(piece.float(), dim=1)
            places = wanted[:, None]
            loss -= logs.gather(1, places).sum()
            slopes = logs.exp_()
            slopes.scatter_add_(1, places, slopes.new_full(places.shape, -1.0))
            into.copy_(slopes.div_(total))
        ctx.save_for_backward(gradient)
        return loss / total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401 - torch's own
        (gradient,) = ctx.saved_tensors
        return gradient.mul_(outer), None, None  # in its place: a second pass is torch's error
