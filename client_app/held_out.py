"""A client's scores on rows that it holds out: loss and accuracy per completion token, as one vote among the clients.

The work is bounded by what the run asks of training, so that its time tells no more of the rows than a round's does.
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
    adapted: AdaptedModel, adapter: Tensor, examples: TokenizedExamples, train: TrainConfig
) -> tuple[float, float]:
    """Mean loss (nats per token) and share of tokens that the model ranks first, of an adapter (shape ``[n]``).

    Of the first rows, as many as three times those of the run's local training, which is then as much work; of the
    completions only. NaN where there is no row.
    """
    adapted.load(adapter)
    adapted.training_mode(False)
    loss, right, count = 0.0, 0, 0
    for rows in torch.arange(min(len(examples), _most_rows(train))).split(train.batch_size):
        batch = examples.select(rows)
        places = (batch.labels[:, 1:] != IGNORED).nonzero(as_tuple=True)
        targets = batch.labels[places[0], places[1] + 1].to(adapted.device)
        ids, mask = batch.input_ids[:, :-1].to(adapted.device), batch.attention_mask[:, :-1].to(adapted.device)
        logits = logits_at(adapted.model, ids, mask, *places).float()
        loss += float(cross_entropy(logits, targets.to(logits.device), reduction="sum"))
        right += int((logits.argmax(dim=1) == targets.to(logits.device)).sum())
        count += len(targets)
    return (loss / count, right / count) if count else (math.nan, math.nan)


def _most_rows(train: TrainConfig) -> int:
    """No bound where passes over all rows are counted, which a site allows by a limit of its own."""
    steps = train.local_steps * train.gradient_accumulation
    return _PASSES * train.batch_size * steps if steps else torch.iinfo(torch.int64).max
