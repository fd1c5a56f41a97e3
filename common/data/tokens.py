"""Texts to tokens: chat templates, end-of-text, masked prompts, truncation."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from common.config import ConfigError, DataConfig
from common.model.token_ids import empty_ids, split_at_word, token_ids

IGNORED = -100  # label that cross-entropy skips


@dataclass(frozen=True)
class TokenizedExamples:
    """Examples as tokens: ``input_ids``, ``attention_mask`` and ``labels``, each of shape ``[examples, length]``.

    ``labels`` repeats the completion's tokens and is ``IGNORED`` on the prompt and on the padding.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return self.input_ids.shape[0]

    def select(self, rows: Tensor) -> "TokenizedExamples":
        """The given rows, cut to the longest of them."""
        mask = self.attention_mask[rows]
        length = int(mask.sum(dim=1).max()) if len(rows) else 0
        return TokenizedExamples(self.input_ids[rows, :length], mask[:, :length], self.labels[rows, :length])

    def to(self, device: torch.device) -> "TokenizedExamples":
        """The same examples on another device."""
        return TokenizedExamples(self.input_ids.to(device), self.attention_mask.to(device), self.labels.to(device))


def check_chat_template(data: DataConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse ``data.chat-template`` for a tokenizer that has none."""
    if data.chat_template and not tokenizer.chat_template:
        raise ConfigError(
            f'data.chat-template = true: the tokenizer of "{tokenizer.name_or_path}" has no chat template; '
            "set it to false, or take the model's chat variant"
        )


def prompt_texts(rows: Dataset, data: DataConfig, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What the model reads before it completes: the rows' prompts, or their messages in the tokenizer's chat template.

    Raises ``ConfigError`` when a template is asked for and the tokenizer has none.
    """
    if not data.chat_template:
        return list(rows[data.prompt_column])
    check_chat_template(data, tokenizer)
    messages = rows["message" if "message" in rows.column_names else data.prompt_column]
    return [
        str(
            tokenizer.apply_chat_template(
                [{"role": "user", "content": message}], tokenize=False, add_generation_prompt=True
            )
        )
        for message in messages
    ]


def completion_texts(texts: Sequence[str], data: DataConfig) -> list[str]:
    """Completions as the model shall write them: a chat template brings the white space before an answer itself."""
    return [text.strip() for text in texts] if data.chat_template else list(texts)


def encode(
    rows: Dataset, data: DataConfig, tokenizer: PreTrainedTokenizerBase, *, end: bool, lenient: bool = False
) -> TokenizedExamples:
    """Rows with the configured columns as tokens; ``end`` puts the tokenizer's end-of-text after each completion.

    ``lenient``: rows with nothing to learn are left out, where others would raise ``ConfigError``.
    """
    prompts = prompt_texts(rows, data, tokenizer)
    completions = completion_texts(rows[data.completion_column], data)
    return tokenize(
        tokenizer, prompts, completions, data.max_length, end=end, special=not data.chat_template, lenient=lenient
    )


def tokenize(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    completions: Sequence[str],
    max_length: int,
    *,
    end: bool = False,
    special: bool = True,
    questions: Sequence[int] | None = None,
    lenient: bool = False,
) -> TokenizedExamples:
    """Tokenize prompt + completion, right-padded; an example over ``max_length`` loses the start of its prompt.

    White space at a prompt's end belongs to the completion. An empty prompt is the tokenizer's begin-of-text, else its
    end-of-text. The completion begins at the first token in which the whole
    differs from the prompt alone, so a token that spans both is learned. ``end`` appends the end-of-text token where
    the tokenizer has one; without it there is none, whatever the tokenizer does by itself. ``special`` = false: a chat
    template has written the prompts, with their begin-of-text and their white space. ``questions``: number of every
    example's question; options of one question begin at the same token, so that they are scored over the same span.
    Raises ``ConfigError`` for an example with nothing to learn; ``lenient`` leaves it out.
    """
    pairs = list(zip(prompts, completions, strict=True))
    if special:
        pairs = [split_at_word(prompt, completion) for prompt, completion in pairs]
    heads = token_ids(tokenizer, [prompt for prompt, _ in pairs], special=special)
    wholes = token_ids(tokenizer, [prompt + completion for prompt, completion in pairs], special=special)
    if special:
        wholes = _opened(heads, wholes, empty_ids(tokenizer))
    starts = [_shared(head, whole) for head, whole in zip(heads, wholes, strict=True)]
    if questions is not None:
        starts = _earliest(starts, questions)
    last = [tokenizer.eos_token_id] if end and tokenizer.eos_token_id is not None else []
    wholes = [ids if ids[-1:] == last else ids + last for ids in wholes]
    cut = [max(0, len(ids) - max_length) for ids in wholes]
    spans = [(ids[gone:], max(0, start - gone)) for ids, gone, start in zip(wholes, cut, starts, strict=True)]
    bare = [index for index, (row, start) in enumerate(spans) if len(row) < 2 or start == len(row)]
    if bare and not lenient:
        raise ConfigError(
            f"example {bare[0] + 1} has nothing to learn: its completion {completions[bare[0]]!r} gives no token that "
            "follows another one"
        )
    left_out = set(bare)
    spans = [span for index, span in enumerate(spans) if index not in left_out]
    return _padded(spans, tokenizer.pad_token_id)


def _padded(spans: Sequence[tuple[Sequence[int], int]], pad: int | None) -> TokenizedExamples:
    """Token ids with the place of their first label, padded at the right."""
    shape = (len(spans), max((len(row) for row, _ in spans), default=0))
    input_ids = torch.full(shape, 0 if pad is None else int(pad), dtype=torch.long)
    mask = torch.zeros(shape, dtype=torch.long)
    labels = torch.full(shape, IGNORED, dtype=torch.long)
    for index, (row, start) in enumerate(spans):
        input_ids[index, : len(row)] = torch.tensor(row)
        mask[index, : len(row)] = 1
        labels[index, start : len(row)] = torch.tensor(row[start:])
    return TokenizedExamples(input_ids, mask, labels)


def _opened(heads: Sequence[list[int]], wholes: Sequence[list[int]], empty: list[int]) -> list[list[int]]:
    """Every whole, behind what stands for an empty prompt where the prompt is that: its first token is learned too."""
    bare = [head == empty and whole[: len(empty)] != empty for head, whole in zip(heads, wholes, strict=True)]
    return [empty + whole if missing else whole for whole, missing in zip(wholes, bare, strict=True)]


def _earliest(starts: Sequence[int], questions: Sequence[int]) -> list[int]:
    """Every start replaced by the earliest one of the same question."""
    first: dict[int, int] = {}
    for start, question in zip(starts, questions, strict=True):
        first[question] = min(start, first.get(question, start))
    return [first[question] for question in questions]


def _shared(head: Sequence[int], whole: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(head, whole, strict=False)))
