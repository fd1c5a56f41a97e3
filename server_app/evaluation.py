"""Server-side evaluation on public held-out examples: loss of the completion, and 4-way choice where choices exist."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.functional import cross_entropy

from common.config import DataConfig, EvaluationConfig
from common.data import IGNORED, completion_texts, prompt_texts, tokenise
from common.models import AdaptedModel
from server_app.tracking import tracked


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
        prompts = prompt_texts(examples, data, adapted.tokenizer)
        answers = list(examples[data.completion_column])
        self._has_choices = "choices" in examples.column_names
        options = list(examples["choices"]) if self._has_choices else [[answer] for answer in answers]
        self._answers = torch.tensor([list(o).index(a) for o, a in zip(options, answers, strict=True)])
        self._options = _option_numbers([len(opts) for opts in options])
        texts = [(prompt, option) for prompt, opts in zip(prompts, options, strict=True) for option in opts]
        self._tokens = tokenise(
            adapted.tokenizer,
            [prompt for prompt, _ in texts],
            completion_texts([option for _, option in texts], data),
            data.max_length,
            end=data.append_eos and not self._has_choices,  # choices are compared by themselves, as lm-eval does
            special=not data.chat_template,
        )
        self._unique, self._inverse = _unique_inputs(self._tokens.input_ids, self._tokens.labels)
        self._scored, self._position = (self._tokens.labels[:, 1:] != IGNORED).nonzero(as_tuple=True)

    def __call__(self, adapter: Tensor) -> Evaluation:
        """Evaluate the adapter (shape ``[n]``)."""
        self._adapted.load(adapter)
        self._adapted.training_mode(False)
        losses, lengths = self._option_losses()
        right = self._options.gather(1, self._answers[:, None]).flatten()
        loss = (losses[right] / lengths[right]).tolist()
        by_option = torch.cat([losses, torch.tensor([torch.inf])])[self._options]
        hits = (by_option.argmin(dim=1) == self._answers).float().tolist()
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
        labels = self._tokens.labels[self._scored, self._position + 1]
        owner = self._inverse[self._scored]
        losses = torch.zeros(len(self._inverse))
        for start in tracked(range(0, len(inputs), self._batch_size), "batches of held-out rows"):
            rows = slice(start, start + self._batch_size)
            width = int(mask[rows].sum(dim=1).max()) - 1
            logits = self._adapted.model(
                input_ids=inputs[rows, :width].to(self._adapted.device),
                attention_mask=mask[rows, :width].to(self._adapted.device),
                use_cache=False,
            ).logits
            served = ((owner >= start) & (owner < start + self._batch_size)).nonzero().flatten()
            scores = logits[owner[served] - start, self._position[served]].float().cpu()
            losses.index_add_(0, self._scored[served], cross_entropy(scores, labels[served], reduction="none"))
        return losses, (self._tokens.labels[:, 1:] != IGNORED).sum(dim=1)


def _option_numbers(counts: Sequence[int]) -> Tensor:
    """Numbers of each question's options, shape ``[questions, most options]``; missing ones are -1, the last entry."""
    numbers = torch.full((len(counts), max(counts, default=1)), -1)
    first = 0
    for question, count in enumerate(counts):
        numbers[question, :count] = torch.arange(first, first + count)
        first += count
    return numbers


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
