"""Server-side evaluation on public held-out examples: loss of the completion, and 4-way choice where choices exist."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.functional import cross_entropy

from common.config import DataConfig
from common.data import (
    IGNORED,
    TokenizedExamples,
    completion_texts,
    encode,
    prompt_texts,
    shortened_texts,
    tokenize,
    unknown_share,
    unknown_words,
)
from common.model.adapted import AdaptedModel
from common.model.label_logits import logits_at
from server_app.results.evaluation_batches import batches_of
from server_app.results.spread import ratio_error, share_error
from server_app.results.tracking import tracked


@dataclass(frozen=True)
class Evaluation:
    """Loss, accuracy (None without choices), both also by group.

    The loss is in nats per completion token, the mean over all tokens of all completions, so a long one counts for more
    than a short one, as in training; of a group over its own tokens. Accuracy is the share of questions; where n of the
    choices are the likeliest alike, the right one counts 1/n. Errors are standard errors over the questions, as if
    these were independent.
    """

    loss: float
    accuracy: float | None
    loss_by_group: dict[str, float]
    accuracy_by_group: dict[str, float]
    loss_error: float
    accuracy_error: float | None
    examples: int


class Evaluator:
    """Scores an adapter on a fixed set of public examples; everything is tokenized once.

    ``batch_size``: most sequences in a forward pass; 4,096 tokens bound it too.
    """

    def __init__(self, adapted: AdaptedModel, examples: Dataset, data: DataConfig, batch_size: int = 256) -> None:
        self._adapted = adapted
        count = len(examples)
        has_groups = data.group_column in examples.column_names
        self._groups = [_named(group) for group in examples[data.group_column]] if has_groups else ["all"] * count
        answers = list(examples[data.completion_column])
        self._has_choices = "choices" in examples.column_names
        options = list(examples["choices"]) if self._has_choices else [[answer] for answer in answers]
        self._answers = torch.tensor([list(o).index(a) for o, a in zip(options, answers, strict=True)])
        self._options = _option_numbers([len(opts) for opts in options])
        tokens = (
            _options_as_tokens(adapted, examples, options, data)
            if self._has_choices
            else encode(examples, data, adapted.tokenizer, end=data.append_eos)
        )
        self._unknown = unknown_share(tokens, adapted.tokenizer)
        self._shortened = tokens.shortened, len(tokens)
        self._most = data.max_length
        self._lengths = (tokens.labels[:, 1:] != IGNORED).sum(dim=1)
        self._batches = batches_of(tokens, adapted.words, batch_size)

    def __call__(self, adapter: Tensor) -> Evaluation:
        """Evaluate the adapter (shape ``[n]``)."""
        by_option = self._by_option(adapter)
        right = self._options.gather(1, self._answers[:, None]).flatten()
        loss = by_option.gather(1, self._answers[:, None]).flatten().tolist()
        lengths = self._lengths[right].tolist()
        hits = _hits(by_option, self._answers).tolist()
        ones = [1] * len(hits)
        accuracy = _ratio(hits, ones) if self._has_choices else None
        return Evaluation(
            loss=_ratio(loss, lengths),
            accuracy=accuracy,
            loss_by_group=self._by_group(loss, lengths),
            accuracy_by_group=self._by_group(hits, ones) if self._has_choices else {},
            loss_error=ratio_error(loss, lengths),
            accuracy_error=None if accuracy is None else share_error(accuracy, len(hits)),
            examples=len(hits),
        )

    @property
    def sizes(self) -> dict[str, int]:
        """How many questions each group has, by its name."""
        return dict(sorted(Counter(self._groups).items()))

    def warnings(self, name: str, model: str) -> list[str]:
        """What to mind of the texts, by the names of ``data.evaluation`` and ``model.name`` that may be told."""
        what = f'data.evaluation = "{name}"'
        found = unknown_words(self._unknown, what, model), shortened_texts(*self._shortened, what, self._most)
        return [warning for warning in found if warning]

    @property
    def guessing(self) -> float | None:
        """The accuracy of who picks a choice at random; ``None`` without choices."""
        counts = (self._options >= 0).sum(dim=1)
        return float((1.0 / counts).mean()) if self._has_choices else None

    def shares(self, adapter: Tensor) -> Tensor:
        """Probabilities of each question's choices among themselves, shape ``[questions, most choices]``.

        They follow from the likelihoods of the choices as whole texts, which accuracy is judged by; a choice that is
        missing has 0.
        """
        return (-self._by_option(adapter)).softmax(dim=1)

    def _by_group(self, values: Sequence[float], weights: Sequence[int]) -> dict[str, float]:
        """Of each group; nothing where there is but one, whose figures are those of the whole."""
        groups: dict[str, list[int]] = defaultdict(list)
        for row, group in enumerate(self._groups):
            groups[group].append(row)
        if len(groups) < 2:
            return {}
        return {
            group: _ratio([values[row] for row in rows], [weights[row] for row in rows])
            for group, rows in sorted(groups.items())
        }

    def _by_option(self, adapter: Tensor) -> Tensor:
        """Summed negative log-likelihood of each choice, shape ``[questions, most choices]``; a missing one has inf."""
        self._adapted.load(adapter)
        self._adapted.training_mode(False)
        losses = self._option_losses()
        return torch.cat([losses, losses.new_tensor([torch.inf])])[self._options]

    @torch.no_grad()
    def _option_losses(self) -> Tensor:
        """Summed negative log-likelihood of every option's completion, shape ``[options]``, float64."""
        device = self._adapted.device
        losses = torch.zeros(len(self._lengths), dtype=torch.float64)
        for batch in tracked(self._batches, "batches of held-out rows"):
            ids, mask = batch.input_ids.to(device), batch.attention_mask.to(device)
            logits = logits_at(self._adapted.model, ids, mask, batch.rows, batch.columns)
            told = cross_entropy(logits.float(), batch.targets.to(logits.device), reduction="none")
            losses.index_add_(0, batch.examples, told.double().cpu())
        return losses


def _hits(by_option: Tensor, answers: Tensor) -> Tensor:
    """1 where the answer alone is likeliest, 1/n where n choices are alike so, as who picks one of them; else 0.

    Choices are alike where a tokenizer has the same tokens for their words, unknown ones above all.
    """
    lowest = by_option == by_option.amin(dim=1, keepdim=True)
    right = lowest.gather(1, answers[:, None]).flatten()
    return right.double() / lowest.sum(dim=1).clamp(min=1)  # none is lowest where all are nan


def _named(group: object) -> str:
    """The group's name; a row without one is of none, not of a group that is called "None"."""
    return "(no group)" if group is None else str(group)


def _options_as_tokens(
    adapted: AdaptedModel, examples: Dataset, options: Sequence[Sequence[str]], data: DataConfig
) -> TokenizedExamples:
    """Every option of every question behind its prompt; compared by themselves, as lm-eval does, without an end."""
    prompts = prompt_texts(examples, data, adapted.tokenizer)
    asked = [(number, option) for number, opts in enumerate(options) for option in opts]
    return tokenize(
        adapted.tokenizer,
        [prompts[number] for number, _ in asked],
        completion_texts([option for _, option in asked], data),
        data.max_length,
        special=not data.templated,
        questions=[number for number, _ in asked],
    )


def _option_numbers(counts: Sequence[int]) -> Tensor:
    """Numbers of each question's options, shape ``[questions, most options]``; missing ones are -1, the last entry."""
    numbers = torch.full((len(counts), max(counts, default=1)), -1)
    first = 0
    for instruction, count in enumerate(counts):
        numbers[instruction, :count] = torch.arange(first, first + count)
        first += count
    return numbers


def _ratio(values: Sequence[float], weights: Sequence[int]) -> float:
    return sum(values) / sum(weights) if weights else float("nan")
