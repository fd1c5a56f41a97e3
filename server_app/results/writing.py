"""Texts that a model writes."""

from collections.abc import Collection, Mapping, Sequence
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase

from common.config import DataConfig
from common.data import turn_end
from common.model.adapted import AdaptedModel
from common.model.token_ids import prompt_ids
from server_app.results.tracking import tracked

ENDLESS = "training teaches no token that ends an answer in this chat template: texts end at --new-tokens"


def end_tokens(adapted: AdaptedModel, *, templated: bool) -> list[int]:
    """The tokens that end a text: the tokenizer's and the model folder's, and of a chat template what ends a turn."""
    base: Any = adapted.model.get_base_model()
    found = [*(base.generation_config.eos_token_id or ()), turn_end(adapted.tokenizer) if templated else None]
    return [number for number in dict.fromkeys(found) if number is not None]


def greedy_settings(adapted: AdaptedModel, new_tokens: int, *, templated: bool) -> dict[str, Any]:
    """Every setting of ``generate`` that takes the likeliest token each time, at most ``new_tokens`` times.

    From the model folder come only end-of-text tokens, which are some of ``end_tokens``.
    """
    return {
        "do_sample": False,
        "num_beams": 1,
        "max_new_tokens": new_tokens,
        "min_new_tokens": 0,
        "repetition_penalty": 1.0,
        "no_repeat_ngram_size": 0,
        "eos_token_id": end_tokens(adapted, templated=templated) or None,
        "pad_token_id": adapted.tokenizer.pad_token_id or 0,
    }


def told(settings: Mapping[str, Any]) -> str:
    """How texts were written, as a line."""
    return "texts: " + ", ".join(f"{key} = {value}" for key, value in settings.items())


@torch.no_grad()
def write_texts(
    adapted: AdaptedModel,
    adapter: Tensor,
    prompts: Sequence[str],
    data: DataConfig,
    batch_size: int,
    settings: Mapping[str, Any],
) -> list[str]:
    """What the model writes after each prompt, under the ``settings`` of ``generate``.

    ``adapter`` has shape ``[n]``; a prompt over ``data.max-length`` tokens loses its start, as in training. White space
    at a prompt's end is left for the model to write, as it is in training, but for what a chat template wrote.
    """
    adapted.load(adapter)
    adapted.training_mode(False)
    tokenizer, special = adapted.tokenizer, not data.templated
    encoded = prompt_ids(tokenizer, [text.rstrip() if special else text for text in prompts], special=special)
    rows = [ids[-data.max_length :] for ids in encoded]
    generation = GenerationConfig(**settings)
    texts = [""] * len(rows)
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
    for start in tracked(range(0, len(order), batch_size), "batches of texts"):
        numbers = order[start : start + batch_size]
        ids, mask = left_padded([rows[number] for number in numbers], tokenizer.pad_token_id or 0)
        written = adapted.model.generate(
            input_ids=ids.to(adapted.device), attention_mask=mask.to(adapted.device), generation_config=generation
        )
        decoded = read_texts(tokenizer, written[:, ids.shape[1] :], settings["eos_token_id"] or ())
        for number, text in zip(numbers, decoded, strict=True):
            texts[number] = text
    return texts


def read_texts(tokenizer: PreTrainedTokenizerBase, written: Tensor, ends: Collection[int]) -> list[str]:
    """Token ids of shape ``[texts, longest]`` as texts, each up to the first of ``ends``, without special tokens."""
    rows = [list(takewhile(lambda number: number not in ends, row)) for row in written.tolist()]
    return [text.strip() for text in tokenizer.batch_decode(rows, skip_special_tokens=True)]


def left_padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Token ids and their mask, both of shape ``[rows, longest]``."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids, mask
