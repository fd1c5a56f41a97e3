"""Conversations in a tokenizer's chat template, and which parts of what it writes are the assistant's.

Hardly any template says that itself (Jinja's ``{% generation %}``, which ``transformers`` reads). Elsewhere an answer
is what the conversation up to it has more than the same conversation before it with the prompt for an answer: this is
what a model will be asked to write. It holds where the template writes earlier turns alike whatever follows; others are
refused, since no part of the text would be known to be an answer.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise, takewhile
from typing import Any

from transformers import PreTrainedTokenizerBase

from common.config import ConfigError, DataConfig
from common.data.chats import Message
from common.data.raw import one_line
from common.data.tokenized import Spans
from common.model.token_ids import token_ids

_MARKED = re.compile(r"\{%-?\s*generation\b")


class TemplateFault(ValueError):
    """A conversation that the template cannot write, or of which the answers cannot be found."""


@dataclass(frozen=True)
class Answers:
    """A conversation as a text, and its answers: where each begins and, with all that ends the turn, where it ends.

    ``closed``: whether the template ends a turn by itself.
    """

    text: str
    places: list[tuple[int, int]]
    closed: bool


def check_chat_template(data: DataConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a chat template that is asked for where the tokenizer has none (``ConfigError``)."""
    if data.templated and not tokenizer.chat_template:
        asked = 'data.format = "chat"' if data.format == "chat" else "data.chat-template = true"
        instead = "take the model's chat variant"
        raise ConfigError(
            f'{asked}: the tokenizer of "{tokenizer.name_or_path}" has no chat template; '
            + (instead if data.format == "chat" else f"set it to false, or {instead}")
        )


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, ask: bool = False) -> str:
    """The messages as the template writes them, with the prompt for an answer behind them if ``ask``."""
    with _refusals():
        return str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=ask))


def answer_tokens(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, end: bool) -> Spans:
    """A conversation up to its last answer as token ids, and the spans of its answers.

    ``end``: the tokenizer's end-of-text follows the last answer where the template ends no turn by itself. Raises
    ``TemplateFault``.
    """
    if _MARKED.search(str(tokenizer.get_chat_template())):
        return _marked(tokenizer, messages)
    found = _answers(tokenizer, messages)
    (ids,) = token_ids(tokenizer, [found.text], special=False)
    text = found.text
    spans = [(_place(tokenizer, text[:start], ids), _place(tokenizer, text[:end], ids)) for start, end in found.places]
    ids = ids[: spans[-1][1]]
    if end and not found.closed and tokenizer.eos_token_id is not None:
        ids, spans[-1] = [*ids, tokenizer.eos_token_id], (spans[-1][0], len(ids) + 1)
    return ids, spans


def _place(tokenizer: PreTrainedTokenizerBase, head: str, ids: Sequence[int]) -> int:
    """How many of a text's tokens are those of its beginning."""
    return shared(token_ids(tokenizer, [head], special=False)[0], ids)


def shared(head: Sequence[int], whole: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(head, whole, strict=False)))


def _answers(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> Answers:
    whole, places, turn = render(tokenizer, messages), [], ""
    for place, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = render(tokenizer, messages[:place], ask=True)
        after = render(tokenizer, messages[: place + 1]).rstrip()
        if not (whole.startswith(after) and after.startswith(before.rstrip()) and len(after) > len(before)):
            raise TemplateFault(
                f"the chat template writes turn {place + 1} otherwise when it is asked for, or when others follow, so "
                "its answers cannot be told from the rest; mark them in the template with {% generation %}, or give "
                "conversations of one answer"
            )
        places.append((len(before), len(after)))
        turn = after[len(before) :]
    return Answers(whole, places, closed=not turn.endswith(messages[-1]["content"].strip()))


@contextmanager
def _refusals() -> Iterator[None]:
    """Whatever a template fails with is this one conversation's fault: a template is a program, and texts its input."""
    try:
        yield
    except MemoryError:  # not the conversation's alone
        raise
    except Exception as error:
        raise TemplateFault(f"the chat template refuses the conversation ({one_line(error)})") from None


def _marked(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> Spans:
    """By the template's own marks."""
    with _refusals():
        found: Any = tokenizer.apply_chat_template(
            list(messages), tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
    mask = [0, *found["assistant_masks"], 0]
    edges = [place for place, (one, other) in enumerate(pairwise(mask)) if one != other]
    if not edges:
        raise TemplateFault("the chat template has {% generation %}, but marks no answer of the conversation")
    return list(found["input_ids"])[: edges[-1]], list(zip(edges[::2], edges[1::2], strict=True))
