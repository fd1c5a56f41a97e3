"""A few held-out examples as a report shows them: the base model's answer and the tuned one's beside the reference.

They are evenly spread over the rows, whatever the model makes of them: nobody picks the good ones.
"""

from typing import Any

from datasets import Dataset
from torch import Tensor

from common.config import DataConfig
from common.data import prompt_texts
from common.data.chats import Message, read_messages
from common.data.table import MESSAGES
from common.model.adapted import AdaptedModel
from common.model.positions import learned_positions
from server_app.results.evaluation import Evaluator
from server_app.results.writing import greedy_settings, write_texts

COUNT = 5
_NEW_TOKENS = 64  # a text is written twice, on a machine that may have no accelerator
_LONGEST = 600  # characters of a prompt, reference or text


class Samples:
    """``COUNT`` of the public examples, or all where there are fewer; none of a plain text, which nothing asks for.

    Args:
        adapted: the model.
        rows: all held-out examples.
        data: how they are to be read.

    """

    def __init__(self, adapted: AdaptedModel, rows: Dataset, data: DataConfig) -> None:
        asked = [row for row, prompt in enumerate(rows[data.prompt_column]) if str(prompt).strip()]
        count = min(COUNT, len(asked))
        self._rows = rows.select([asked[number * len(asked) // count] for number in range(count)])
        self._adapted, self._data = adapted, data

    def __call__(self, base: Tensor, tuned: Tensor) -> list[dict[str, Any]]:
        """Each example with what two adapters (shape ``[n]``) make of it.

        ``prompt`` and ``reference`` are texts. Where the example is a choice, ``choices`` holds the ``text`` of each
        and its probabilities ``base`` and ``tuned``; else ``base`` and ``tuned`` are what the model writes.
        """
        if len(self._rows) == 0:
            return []
        shown = self._scored(base, tuned) if "choices" in self._rows.column_names else self._written(base, tuned)
        heads = zip(self._prompts(), self._rows[self._data.completion_column], strict=True)
        return [
            {"prompt": prompt, "reference": _short(reference), **more}
            for (prompt, reference), more in zip(heads, shown, strict=True)
        ]

    def _prompts(self) -> list[str]:
        """The prompts as people wrote them, not as a chat template has them; of a conversation who says what."""
        if self._data.format == "chat":
            return [_spoken(read_messages(text)[:-1]) for text in self._rows[MESSAGES]]
        return [_short(str(text)) for text in self._rows[self._data.prompt_column]]

    def _scored(self, base: Tensor, tuned: Tensor) -> list[dict[str, Any]]:
        scored = Evaluator(self._adapted, self._rows, self._data)
        before, after = scored.shares(base).tolist(), scored.shares(tuned).tolist()
        return [
            {
                "choices": [
                    {"text": _short(text), "base": old, "tuned": new}
                    for text, old, new in zip(texts, before[row], after[row], strict=False)  # padded with zeros
                ]
            }
            for row, texts in enumerate(self._rows["choices"])
        ]

    def _written(self, base: Tensor, tuned: Tensor) -> list[dict[str, Any]]:
        """A table of positions must hold prompt and text, so a prompt may be cut where training cuts none."""
        prompts = prompt_texts(self._rows, self._data, self._adapted.tokenizer)
        most, positions = self._data.max_length, learned_positions(self._adapted.model.get_base_model())
        written = min(_NEW_TOKENS, most, *([positions // 2] if positions else []))
        room = min(most, positions - written) if positions else most
        data = self._data.model_copy(update={"max_length": room})
        settings = greedy_settings(self._adapted, written, templated=self._data.templated)
        before, after = (
            write_texts(self._adapted, adapter, prompts, data, COUNT, settings) for adapter in (base, tuned)
        )
        return [{"base": _short(old), "tuned": _short(new)} for old, new in zip(before, after, strict=True)]


def _spoken(messages: list[Message]) -> str:
    """A line for each turn, or the only turn's text; of a long conversation its end, which is what is answered."""
    if len(messages) == 1:
        return _short(messages[0]["content"])
    text = "\n".join(f"{message['role']}: {message['content'].strip()}" for message in messages)
    return f"…{text[-_LONGEST:]}" if len(text) > _LONGEST else text


def _short(text: str) -> str:
    text = text.strip()
    return f"{text[:_LONGEST]}…" if len(text) > _LONGEST else text
