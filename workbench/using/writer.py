"""Texts of the base model and of the tuned one, asked as the adapter was trained."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase, TextStreamer

from common.config import ConfigError
from common.counts import count
from common.data import check_chat_template, is_end_taught, render
from common.data.chat_template import TemplateFault
from common.data.chats import Message
from common.model.adapted import AdaptedModel
from common.model.token_ids import prompt_ids, token_ids
from server_app.results.tracking import tracked
from server_app.results.writing import ENDLESS, greedy_settings, left_padded, read_texts
from workbench.evaluation.adapter import load_adapter
from workbench.using.request import Asked, Sampling

Told = Callable[[str], None]
"""Gets each piece of a text as it is written."""
_UNFILTERED = {
    "top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0,
}  # fmt: skip
"""Every token can be drawn; transformers would draw from the 50 likeliest where this is left open."""


@dataclass(frozen=True)
class Writer:
    """One model with two adapters: ``base``, which changes nothing, and ``tuned``.

    ``templated``: prompts are turns of a conversation, which the tokenizer's chat template writes. ``endless``:
    training teaches no token that ends them.
    """

    adapted: AdaptedModel
    adapters: dict[str, Tensor]
    templated: bool
    sampling: Sampling
    endless: bool
    _cut: list[int] = field(default_factory=list, init=False)

    @classmethod
    def load(cls, request: Asked, sampling: Sampling, *, base: bool) -> "Writer":
        """Both models, or without ``base`` the tuned one alone; ``ConfigError`` where they cannot be had."""
        adapted, tuned = load_adapter(request.adapter, request.config)
        data = request.config.data
        if request.from_run:
            check_chat_template(data, adapted.tokenizer)
        templated = data.templated or (not request.from_run and bool(adapted.tokenizer.chat_template))
        adapters = {"base": adapted.initial, "tuned": tuned} if base else {"tuned": tuned}
        endless = templated and not is_end_taught(adapted.tokenizer, data)
        return cls(adapted, adapters, templated, sampling, endless)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Token ids that ask for the next answer; without a template the last message is continued.

        One that has no room is cut at the left, which ``warnings`` tells.
        """
        tokenizer = self.adapted.tokenizer
        if self.templated:
            ids = token_ids(tokenizer, [_asked(tokenizer, messages)], special=False)[0]
        else:
            ids = prompt_ids(tokenizer, [messages[-1]["content"].rstrip()])[0]
        if len(ids) > self._room:
            self._cut.append(len(ids))
        return ids[-self._room :]

    @property
    def cuts(self) -> int:
        """How many prompts had no room so far."""
        return len(self._cut)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Every setting of ``generate``: the likeliest token each time, or drawn from all of them."""
        drawn = {"do_sample": True, "temperature": self.sampling.temperature, **_UNFILTERED}
        greedy = greedy_settings(self.adapted, self._new_tokens, templated=self.templated)
        return greedy | (drawn if self.sampling.temperature else {})

    def warnings(self) -> list[str]:
        """What was asked for and is not done, since the model's positions have an end and an answer may have none."""
        found = [ENDLESS] if self.endless else []
        if self._new_tokens < self.sampling.new_tokens:
            found.append(
                f"--new-tokens {self.sampling.new_tokens}: the model has {self._positions} positions, half of them "
                f"for the prompt; texts end after {count(self._new_tokens, 'token')}"
            )
        if self._cut:
            found.append(
                f"{count(len(self._cut), 'prompt')} of up to {max(self._cut)} tokens cut at the left to {self._room}: "
                f"the model has {self._positions} positions, and {self._new_tokens} are for the text"
            )
        return found

    def write(self, who: str, prompt: list[int], told: Told) -> str:
        """What one of ``adapters`` writes behind a prompt; ``told`` follows it piece by piece."""
        self._begin(who)
        return self._write([prompt], told)[0]

    def write_all(self, who: str, prompts: Sequence[list[int]], batch_size: int) -> list[str]:
        """The same behind each of several prompts, in batches of like length; what is drawn goes on through them."""
        self._begin(who)
        order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
        texts = [""] * len(prompts)
        for start in tracked(range(0, len(order), batch_size), f"batches of texts, {who}"):
            numbers = order[start : start + batch_size]
            for number, text in zip(numbers, self._write([prompts[number] for number in numbers]), strict=True):
                texts[number] = text
        return texts

    def _begin(self, who: str) -> None:
        self.adapted.load(self.adapters[who])
        self.adapted.training_mode(False)
        torch.manual_seed(self.sampling.seed)

    @torch.no_grad()
    def _write(self, prompts: Sequence[list[int]], told: Told | None = None) -> list[str]:
        tokenizer = self.adapted.tokenizer
        ids, mask = left_padded(prompts, tokenizer.pad_token_id or 0)
        settings = self.settings
        ends = settings["eos_token_id"] or ()
        written = self.adapted.model.generate(
            input_ids=ids.to(self.adapted.device),
            attention_mask=mask.to(self.adapted.device),
            generation_config=GenerationConfig(**settings),
            streamer=_Streamer(tokenizer, told, ends) if told else None,
        )
        return read_texts(tokenizer, written[:, ids.shape[1] :], ends)

    @property
    def _positions(self) -> int:
        base: Any = self.adapted.model.get_base_model()
        return int(getattr(base.config.get_text_config(), "max_position_embeddings", None) or 2_048)

    @property
    def _new_tokens(self) -> int:
        """As many as were asked for, but half of the positions at most: the other half is the prompt's."""
        return min(self.sampling.new_tokens, max(1, self._positions // 2))

    @property
    def _room(self) -> int:
        """Tokens that a prompt may have beside what is written."""
        return max(1, self._positions - self._new_tokens)


class _Streamer(TextStreamer):
    """Whole words as they are written, to a function and not to the terminal."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, told: Told, ends: Collection[int]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._told, self._ends = told, ends

    def put(self, value: Tensor) -> None:
        if self.next_tokens_are_prompt or int(value[-1]) not in self._ends:
            super().put(value)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self._told(text)


def _asked(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> str:
    """As the model's own template asks for an answer; ``ConfigError`` where that refuses."""
    try:
        return render(tokenizer, messages, ask=True)
    except TemplateFault as fault:
        raise ConfigError(f"{fault}; --set data.chat-template=false asks without it") from None
