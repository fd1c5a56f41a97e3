"""Tiny models of real layouts on disk: random weights, two layers, a byte-level BPE tokenizer."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from common.demo.tasks import training_examples

WIDTH, DEPTH, VOCABULARY = 64, 2, 400
_GROUPED = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 128,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}
LAYOUTS = {
    "llama": partial(LlamaConfig, **_GROUPED | {"num_key_value_heads": 4}),
    "mistral": partial(MistralConfig, **_GROUPED),
    "qwen2": partial(Qwen2Config, **_GROUPED),
    "qwen3": partial(Qwen3Config, **_GROUPED, head_dim=16),
    "gpt2": partial(
        GPT2Config, vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=DEPTH, n_head=4, n_positions=64,
        bos_token_id=0, eos_token_id=0,
    ),
}  # fmt: skip
"""Configurations by name: grouped-query attention in three of them, a fused ``Conv1D`` in GPT-2."""

ADAPTER_VALUES = {
    "llama": DEPTH * 2 * (4 * (64 + 64)),
    "mistral": DEPTH * 2 * (2 * (64 + 64) + 2 * (64 + 32)),
    "qwen2": DEPTH * 2 * (2 * (64 + 64) + 2 * (64 + 32)),
    "qwen3": DEPTH * 2 * (2 * (64 + 64) + 2 * (64 + 32)),
    "gpt2": DEPTH * 2 * (64 + 3 * 64),
}
"""LoRA values of rank 2: layers x rank x (in + out), over q, k, v, o or the fused projection."""

SIZES: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
}
"""Smaller sizes, for models in memory; the size of a head is given, since some configurations do not derive it."""


def config_of(name: str) -> PreTrainedConfig:
    """A fresh configuration of a layout."""
    config: PreTrainedConfig = LAYOUTS[name]()
    return config


def write_model(name: str, folder: Path) -> Path:
    """Save a reproducible random model of a layout, with a tokenizer, as ``from_pretrained`` wants it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        AutoModelForCausalLM.from_config(config_of(name)).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def write_tokenizer(folder: Path) -> None:
    """Train a tokenizer on the demo's texts; like GPT-2's it cannot pad by itself."""
    texts = [f"{row['prompt']}{row['completion']}" for row in training_examples("elicitation", 100, 1).to_list()]
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(texts, vocab_size=VOCABULARY, special_tokens=["<|endoftext|>"], show_progress=False)
    ends = dict.fromkeys(("bos_token", "eos_token"), "<|endoftext|>")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=trained._tokenizer, **ends)
    tokenizer.save_pretrained(folder)
