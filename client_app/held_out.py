"""A client's scores on rows that it holds out: loss and accuracy per completion token, as one vote among the clients.

At a site with its own data the work is what the run asks of training, whatever rows there are: time that grows with
their number would tell it.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from common.config import TrainConfig
from common.data import IGNORED, TokenizedExamples
from common.model.adapted import AdaptedModel
from common.model.label_logits import logits_at

SHARE = 0.2
"""Of a client's rows, held out where a run evaluates privately: one at least, and none of a single row."""

_PASSES = 3  # a pass forward costs a third of a training step's


@torch.no_grad()
def held_out_scores(
    adapted: AdaptedModel, adapter: Tensor, examples: TokenizedExamples, train: TrainConfig, *, even: bool = False
) -> tuple[float, float]:
    """Mean loss (nats per token) and share of tokens that the model ranks first, of an adapter (shape ``[n]``).

    Of the first rows, as many as three times those of the run's local training, which is then as much work; of the
    completions only. ``even``: where there are fewer, they go through the model again until it is as much, and count
    once. NaN where there is no row.
    """
    if not len(examples):
        return math.nan, math.nan
    adapted.load(adapter)
    adapted.training_mode(False)
    loss, right, count = 0.0, 0, 0
    for visits in torch.arange(_visits(len(examples), train, even=even)).split(train.batch_size):
        batch = examples.select(visits % len(examples))
        places = (batch.labels[:, 1:] != IGNORED).nonzero(as_tuple=True)
        targets = batch.labels[places[0], places[1] + 1].to(adapted.device)
        ids, mask = batch.input_ids[:, :-1].to(adapted.device), batch.attention_mask[:, :-1].to(adapted.device)
        logits = logits_at(adapted.model, ids, mask, *places).float()
        targets, counts = targets.to(logits.device), (visits < len(examples))[places[0]].to(logits.device)
        loss += float((cross_entropy(logits, targets, reduction="none") * counts).sum())
        right += int(((logits.argmax(dim=1) == targets) & counts).sum())
        count += int(counts.sum())
    return (loss / count, right / count) if count else (math.nan, math.nan)


def _visits(count: int, train: TrainConfig, *, even: bool) -> int:
    """Rows that go through the model, of ``count``.

    All where passes over all rows are counted, which a site allows by a limit of its own.
    """
    most = _PASSES * train.batch_size * train.local_steps * train.gradient_accumulation
    return most if most and even else min(count, most or count)
