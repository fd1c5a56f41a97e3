"""Server-side evaluation on public held-out examples: loss of the completion, and 4-way choice where choices exist."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.functional import cross_entropy

from common.config import DataConfig, EvaluationConfig
from common.data import IGNORED, tokenise
from common.models import AdaptedModel


@dataclass(frozen=True)
class Evaluation:
    """Mean loss (nats per completion token), accuracy (None without choices), both also by group."""

    loss: float
    accuracy: float | None
    loss_by_group: dict[str, float]
    accuracy_by_group: dict[str, float]
    examples: int


class Evaluator:
    """Scores an adapter on a fixed set of public examples; everything is tokenised once."""

    def __init__(self, adapted: AdaptedModel, examples: Dataset, data: DataConfig, settings: EvaluationConfig) -> None:
        self._adapted = adapted
        self._batch_size = settings.batch_size
        count = len(examples)
        has_groups = data.group_column in examples.column_names
        self._groups = [str(group) for group in examples[data.group_column]] if has_groups else ["all"] * count
        prompts, answers = list(examples[data.prompt_column]), list(examples[data.completion_column])
        options = list(examples["choices"]) if "choices" in examples.column_names else [[a] for a in answers]
        self._has_choices = "choices" in examples.column_names
        self._answers = torch.tensor([list(o).index(a) for o, a in zip(options, answers, strict=True)])
        self._owners = torch.tensor([row for row, opts in enumerate(options) for _ in opts])
        texts = [(prompt, option) for prompt, opts in zip(prompts, options, strict=True) for option in opts]
        self._tokens = tokenise(adapted.tokenizer, [t[0] for t in texts], [t[1] for t in texts], data.max_length)
        self._unique, self._inverse = _unique_inputs(self._tokens.input_ids, self._tokens.labels)

    def __call__(self, adapter: Tensor) -> Evaluation:
        """Evaluate the adapter (shape ``[n]``)."""
        self._adapted.load(adapter)
        self._adapted.training_mode(False)
        losses, lengths = self._option_losses()
        by_row: list[list[int]] = [[] for _ in range(len(self._groups))]
        for index, owner in enumerate(self._owners.tolist()):
            by_row[owner].append(index)
        picked = [rows[int(answer)] for rows, answer in zip(by_row, self._answers, strict=True)]
        loss = (losses[picked] / lengths[picked]).tolist()
        hits = [float(losses[rows].argmin() == answer) for rows, answer in zip(by_row, self._answers, strict=True)]
        return Evaluation(
            loss=_mean(loss),
            accuracy=_mean(hits) if self._has_choices else None,
            loss_by_group=self._by_group(loss),
            accuracy_by_group=self._by_group(hits) if self._has_choices else {},
            examples=len(loss),
        )

    def _by_group(self, values: Sequence[float]) -> dict[str, float]:
        groups: dict[str, list[float]] = defaultdict(list)
        for group, value in zip(self._groups, values, strict=True):
            groups[group].append(value)
        return {group: _mean(members) for group, members in sorted(groups.items())}

    @torch.no_grad()
    def _option_losses(self) -> tuple[Tensor, Tensor]:
        """Summed negative log-likelihood and number of tokens of every option's completion.

        Options of one question that differ in their last token only share their inputs, so each distinct input is
        run once and read at several labels.
        """
        inputs = self._tokens.input_ids[self._unique]
        mask = self._tokens.attention_mask[self._unique]
        losses = torch.zeros(len(self._inverse))
        for start in range(0, len(inputs), self._batch_size):
            rows = slice(start, start + self._batch_size)
            width = int(mask[rows].sum(dim=1).max()) - 1
            device = self._adapted.device
            logits = self._adapted.model(
                input_ids=inputs[rows, :width].to(device), attention_mask=mask[rows, :width].to(device), use_cache=False
            ).logits.float()
            served = ((self._inverse >= start) & (self._inverse < start + self._batch_size)).nonzero().flatten()
            labels = self._tokens.labels[served, 1 : width + 1].to(device)
            scores = logits[(self._inverse[served] - start).to(device)]
            losses[served] = (
                cross_entropy(scores.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none").sum(dim=1).cpu()
            )
        return losses, (self._tokens.labels != IGNORED).sum(dim=1)


def _unique_inputs(input_ids: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Rows with distinct inputs up to their last token, and for every row the number of its representative."""
    last = (labels != IGNORED).int().cumsum(dim=1).argmax(dim=1)
    inputs = input_ids.clone()
    inputs[torch.arange(len(inputs)), last] = -1
    seen: dict[tuple[int, ...], int] = {}
    representatives: list[int] = []
    inverse: list[int] = []
    for row, key in enumerate(map(tuple, inputs.tolist())):
        if key not in seen:
            seen[key] = len(representatives)
            representatives.append(row)
        inverse.append(seen[key])
    return torch.tensor(representatives), torch.tensor(inverse)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
