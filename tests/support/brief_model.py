"""A tiny chat model that answers "Hi." to everything and ends its turn, and would then say it again."""

from itertools import pairwise
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.benchmark_files import save_model

ANSWER = "Hi."
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}<pad>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
"""A turn ends by ``<pad>``, a text by ``</s>``, which this model never writes."""


@torch.no_grad()
def save_brief_model(folder: Path, template: str = TEMPLATE) -> str:
    """Its next token depends on the last one alone; returns its path."""
    save_model(folder, chat=True)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    model.model.embed_tokens.weight[tokenizer.pad_token_id] = torch.ones(model.config.hidden_size)  # it was 0
    seen = torch.nn.functional.normalize(model.model.embed_tokens.weight, dim=1)
    model.lm_head.weight.zero_()
    for last, following in pairwise(tokenizer(f">{ANSWER}<pad>{ANSWER[0]}")["input_ids"]):
        model.lm_head.weight[following] += seen[last]
    tokenizer.chat_template = template
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
