"""Divergence: the loss that a round is judged by, and the adapter to go back to when a run has diverged."""

import math
from dataclasses import dataclass

import torch
from flwr.app import MetricRecord
from torch import Tensor

VALIDATION_LOSS = "validation_loss"
"""Metric of public examples other than those that are scored: what is decided by it decides nothing of the score."""


@dataclass(frozen=True)
class Best:
    """The released adapter (shape ``[n]``) of the lowest loss by which divergence is judged, and its round."""

    adapter: Tensor
    loss: float
    round: int


@dataclass(frozen=True)
class Judgment:
    """What a round's adapter is worth.

    Attributes:
        best: the best adapter so far, this round's among them; ``None`` while none was better than the base model.
        diverged: why the run must stop and go back to it; ``""`` while it may go on.

    """

    best: Best | None
    diverged: str = ""


def judged_loss(metrics: MetricRecord | None) -> tuple[float, str]:
    """The loss that divergence is judged by, and of which examples: those for validation where there are some."""
    for key, name in ((VALIDATION_LOSS, "validation"), ("loss", "held-out")):
        if metrics and key in metrics:
            return float(metrics[key]), name  # type: ignore[arg-type]
    return 0.0, "no"


def judge(
    adapter: Tensor,
    metrics: MetricRecord | None,
    server_round: int,
    best: Best | None,
    base_loss: float,
    factor: float,
) -> Judgment:
    """Judge the adapter of a round (shape ``[n]``) by its scores, if it has any, and by being finite.

    It has diverged with a loss above ``factor`` times the base model's (``server.divergence-factor``).
    """
    loss, judged = judged_loss(metrics)
    why = _why_diverged(adapter, loss, judged, factor * base_loss)
    if why:
        kept = f"of round {best.round}, whose loss {best.loss:.3g} was the lowest," if best else "of the base model"
        return Judgment(best, f"diverged: {why}; the adapter {kept} is kept")
    if metrics is not None and loss < (best.loss if best else base_loss):
        return Judgment(Best(adapter, loss, server_round))
    return Judgment(best)


def _why_diverged(adapter: Tensor, loss: float, judged: str, limit: float) -> str:
    if not torch.isfinite(adapter).all():
        return "the adapter holds values that are not finite"
    if math.isnan(loss):
        return f"{judged} loss is not a number"
    if loss > limit:
        return f"{judged} loss {loss:.3g} above {limit:.3g} (server.divergence-factor times the base model's)"
    return ""
