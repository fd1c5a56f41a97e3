"""Local training: private examples -> the client's LoRA gradient, flat.

One local step yields the LoRA gradient at the global adapter (Algorithm 2, client side, step 3). Several steps yield
the pseudo-gradient (start - end) / learning rate, which equals the gradient for one step of SGD.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from common.config import TrainConfig
from common.data import IGNORED, TokenizedExamples
from common.model.adapted import AdaptedModel
from common.model.label_logits import logits_at
from common.model.label_loss import label_loss


def local_update(
    adapted: AdaptedModel, adapter: Tensor, examples: TokenizedExamples, train: TrainConfig, seed: int
) -> Tensor:
    """Train locally from ``adapter`` (shape ``[n]``) and return the flat gradient or pseudo-gradient (shape ``[n]``).

    ``seed`` fixes the drawn batches and the dropout masks.
    """
    _seed_dropout(adapted.device, seed)
    adapted.load(adapter)
    adapted.training_mode(True)
    batches = _batches(len(examples), train, seed)
    if train.local_steps == 1:
        _accumulate(adapted, examples, next(batches))
        return adapted.gradient()
    optimizer = _optimizer(adapted, train)
    for step in batches:
        _accumulate(adapted, examples, step)
        optimizer.step()
        adapted.gradients.zero_()
    return (adapter.to(adapted.device) - adapted.parameters) / train.learning_rate


def gradient_stream(
    adapted: AdaptedModel, adapter: Tensor, examples: TokenizedExamples, train: TrainConfig, seed: int
) -> Iterator[Tensor]:
    """The flat gradients (shape ``[n]``) of successive local SGD steps from ``adapter``: stage 1 measures these."""
    _seed_dropout(adapted.device, seed)
    adapted.load(adapter)
    adapted.training_mode(True)
    for step in _batches(len(examples), train, seed):
        _accumulate(adapted, examples, step)
        yield adapted.gradient()
        with torch.no_grad():
            adapted.parameters.sub_(adapted.gradients, alpha=train.learning_rate)
        adapted.gradients.zero_()


def first_batch(examples: TokenizedExamples, train: TrainConfig, seed: int) -> TokenizedExamples:
    """The examples of the first micro-batch of ``local_update``."""
    return examples.select(next(_batches(len(examples), train, seed))[0])


def _seed_dropout(device: torch.device, seed: int) -> None:
    """Seed the generator that dropout draws from (``torch.manual_seed`` walks every backend, which is slow)."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed_all(seed)  # a model may be spread over several


def _accumulate(adapted: AdaptedModel, examples: TokenizedExamples, step: list[Tensor]) -> None:
    """Add the gradient of a step's mean loss per label token to the flat gradient buffer.

    Micro-batches weigh by their label tokens, so however a step is cut into them, its gradient is the same.
    """
    batches = [examples.select(rows) for rows in step]
    places = [(batch.labels[:, 1:] != IGNORED).nonzero(as_tuple=True) for batch in batches]
    total = sum(len(rows) for rows, _ in places)
    for batch, (rows, columns) in zip(batches, places, strict=True):
        targets = batch.labels[rows, columns + 1].to(adapted.device)
        logits = logits_at(
            adapted.model,
            batch.input_ids[:, :-1].to(adapted.device),  # what the last token would tell has no label
            batch.attention_mask[:, :-1].to(adapted.device),
            rows,
            columns,
        )
        label_loss(logits, targets.to(logits.device), total).backward()


def _batches(count: int, train: TrainConfig, seed: int) -> Iterator[list[Tensor]]:
    """Steps, each a list of micro-batches of row numbers, drawn without replacement within a pass over the data."""
    generator = torch.Generator().manual_seed(seed)
    if train.local_epochs:
        for _ in range(train.local_epochs):
            yield from ([rows] for rows in torch.randperm(count, generator=generator).split(train.batch_size))
        return
    pool = torch.empty(0, dtype=torch.long)
    size = min(train.batch_size, count)
    for _ in range(train.local_steps):
        step = []
        for _ in range(train.gradient_accumulation):
            if len(pool) < size:
                pool = torch.randperm(count, generator=generator)
            step.append(pool[:size])
            pool = pool[size:]
        yield step


def _optimizer(adapted: AdaptedModel, train: TrainConfig) -> torch.optim.Optimizer:
    flat = torch.nn.Parameter(adapted.parameters)
    flat.grad = adapted.gradients
    if train.optimizer == "adamw":
        return torch.optim.AdamW([flat], lr=train.learning_rate)
    return torch.optim.SGD([flat], lr=train.learning_rate)
