"""The embedded foundation model: a small Llama and its word-level tokenizer, read from its own files."""

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from common.demo.weights import load_weights

ASSETS = Path(__file__).with_name("assets")
WEIGHTS = "weights.json"


def load_model() -> LlamaForCausalLM:
    """Load the pretrained base model, float32, in evaluation mode; leaves the global random state as it was.

    Raises ``CorruptWeightsError`` when the weights do not match their digest.
    """
    return model_from(ASSETS)


def load_tokenizer() -> PreTrainedTokenizerFast:
    """Load the tokenizer: lower-case words, a ``<s>`` put in front by every plain call."""
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(ASSETS)
    return tokenizer


def model_from(folder: Path) -> LlamaForCausalLM:
    """Load a model from a folder with ``config.json`` and ``weights.json``."""
    weights = load_weights(folder / WEIGHTS)
    with torch.random.fork_rng(devices=[]):
        model: LlamaForCausalLM = LlamaForCausalLM(LlamaConfig.from_pretrained(folder))
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if unexpected or set(missing) != {"lm_head.weight"}:
        raise ValueError(f"{folder}: missing weights {missing}, unexpected weights {unexpected}")
    model.tie_weights()
    model.train(False)
    return model
