"""Scores of an adapter on a real model: mean loss of labeled tokens, and texts by BLEU and ROUGE."""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, LlamaForCausalLM
from transformers.modeling_outputs import CausalLMOutputWithPast

from common.config import DataConfig
from common.data import IGNORED, TokenizedExamples, turn_end
from common.model.adapted import AdaptedModel
from server_app.results.writing import read_texts

_BATCH = 16
_NEW_TOKENS = 96


def compute_head_at_labels(adapted: AdaptedModel) -> None:
    """Let a Llama model compute logits only where labels are, and its attention by plain matrix products.

    The loss and its gradient are the same up to rounding; a client's step takes .55 times as long on a CPU in bfloat16,
    where fused attention is slow backward. Without labels the model works as ever.
    """
    base: Any = adapted.model.get_base_model()
    if not isinstance(base, LlamaForCausalLM) or "forward" in vars(base):
        return
    base.set_attn_implementation("eager")
    base.forward = _at_labels(base, base.forward)  # type: ignore[method-assign]


def _at_labels(base: LlamaForCausalLM, whole: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(whole)  # generation reads its signature
    def forward(*args: Any, labels: Tensor | None = None, **kwargs: Any) -> Any:  # noqa: ANN401 - the model's own
        if labels is None:
            return whole(*args, **kwargs)
        hidden = base.model(*args, **_known(kwargs)).last_hidden_state
        kept = labels[:, 1:] != IGNORED
        logits = base.lm_head(hidden[:, :-1][kept]).float()
        return CausalLMOutputWithPast(loss=cross_entropy(logits, labels[:, 1:][kept]))  # type: ignore[arg-type]

    return forward


def _known(kwargs: dict[str, Any]) -> dict[str, Any]:
    """What peft hands through and the decoder takes; its loss-related wishes have been met here."""
    return {name: value for name, value in kwargs.items() if name in {"input_ids", "attention_mask", "use_cache"}}


@torch.no_grad()
def token_loss(adapted: AdaptedModel, adapter: Tensor, examples: TokenizedExamples) -> float:
    """Mean over all labeled tokens of their negative log-likelihood, nats; ``adapter`` has shape ``[n]``."""
    adapted.load(adapter)
    adapted.training_mode(False)
    order = examples.attention_mask.sum(dim=1).argsort()  # little padding
    total, count = 0.0, 0
    for rows in order.split(_BATCH):
        batch = examples.select(rows).to(adapted.device)
        labeled = int((batch.labels[:, 1:] != IGNORED).sum())
        output = adapted.model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels, use_cache=False
        )
        total += float(output.loss) * labeled
        count += labeled
    return total / count


@torch.no_grad()
def write(
    adapted: AdaptedModel, adapter: Tensor, prompts: Sequence[str], data: DataConfig, *, beams: int = 1
) -> list[str]:
    """The likeliest continuation of every prompt by greedy or beam search, up to its first line's end.

    Nothing of the model folder's own generation settings is used; in a chat template a turn's end is a text's.
    Beams are compared by mean log-likelihood.
    """
    adapted.load(adapter)
    adapted.training_mode(False)
    tokenizer = adapted.tokenizer
    encoded = tokenizer(list(prompts), add_special_tokens=not data.chat_template)["input_ids"]
    order = sorted(range(len(prompts)), key=lambda number: len(encoded[number]))
    found = (tokenizer.eos_token_id, turn_end(tokenizer) if data.templated else None)
    ends = [number for number in dict.fromkeys(found) if number is not None]
    settings = GenerationConfig(
        max_new_tokens=_NEW_TOKENS,
        do_sample=False,
        num_beams=beams,
        length_penalty=1.0,
        early_stopping=beams > 1,
        eos_token_id=ends or None,
        pad_token_id=tokenizer.pad_token_id,
    )
    own: Any = adapted.model  # peft hands its settings on, and what they leave open is filled from the model's
    own.generation_config = settings
    texts = [""] * len(prompts)
    for start in range(0, len(order), _BATCH):
        numbers = order[start : start + _BATCH]
        width = max(len(encoded[number]) for number in numbers)
        gaps = [width - len(encoded[number]) for number in numbers]
        ids = torch.tensor([[tokenizer.pad_token_id] * gap + encoded[n] for gap, n in zip(gaps, numbers, strict=True)])
        mask = torch.tensor([[0] * gap + [1] * (width - gap) for gap in gaps])
        written = adapted.model.generate(input_ids=ids.to(adapted.device), attention_mask=mask.to(adapted.device))
        for number, text in zip(numbers, read_texts(tokenizer, written[:, width:], ends), strict=True):
            texts[number] = text.partition("\n")[0].strip()
    return texts
