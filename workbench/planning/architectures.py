"""The shape of a model before anything of it is downloaded, and of the adapter that it would get.

Shapes come from ``config.json`` of a local model, or from a table of published ones for the presets' hub models. A
shape is built on torch's ``meta`` device, which holds no values, so every count is the real model's.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from peft import PeftModel
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedConfig, Qwen2Config
from transformers import __version__ as version
from transformers.pytorch_utils import Conv1D

from common.adapter import Layout
from common.config import ConfigError, LoraConfig, ModelConfig
from common.demo.model import ASSETS
from common.model.causal import check_architecture, check_attention
from common.model.gguf import local_name
from common.model.lora import adapt
from common.model.weights_check import LOADING_FAULTS, first_line

PUBLISHED: dict[str, PreTrainedConfig] = {
    # LLaMA-7B (Touvron et al. 2023, Table 2)
    "huggyllama/llama-7b": LlamaConfig(
        hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32, vocab_size=32000
    ),
    # Qwen2.5-7B (its config.json): grouped-query attention, biases on q, k and v
    "Qwen/Qwen2.5-7B": Qwen2Config(
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        vocab_size=152064,
        tie_word_embeddings=False,
    ),
    # SmolLM2-135M (its config.json): grouped-query attention, tied embeddings
    "HuggingFaceTB/SmolLM2-135M-Instruct": LlamaConfig(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        vocab_size=49152,
        tie_word_embeddings=True,
    ),
    # GPT-2 medium (Radford et al. 2019, Table 2)
    "openai-community/gpt2-medium": GPT2Config(n_embd=1024, n_layer=24, n_head=16),
}
"""Published shapes of the presets' models, by hub id."""


_NO_MODEL = (ValueError, TypeError, LookupError, ArithmeticError, AssertionError, AttributeError, RuntimeError)
"""What the layers of a model raise for sizes and names that make none."""


@dataclass(frozen=True)
class Shape:
    """A model without values.

    Attributes:
        config: the architecture.
        model: with its adapter, on the ``meta`` device.
        layout: the adapter's.
        parameters: of the base model, tied ones once.
        linear_parameters: those in linear layers that quantization replaces (all but the output layer).
        linear_rows: outputs of these layers; 8-bit weights have one float32 scale each.

    """

    config: PreTrainedConfig
    model: PeftModel
    layout: Layout
    parameters: int
    linear_parameters: int
    linear_rows: int


@lru_cache(maxsize=2)
def shape_of(model: ModelConfig, lora: LoraConfig) -> Shape:
    """The shape of a model and its adapter, without network or weights.

    Raises ``ConfigError`` for a hub model that is neither in the table nor in the local cache, and as ``adapt`` does.
    """
    config = architecture(model)
    check_architecture(config, model.name)
    shape = build_shape(config, lora)
    check_attention(shape.model, model.name)
    return shape


def architecture(model: ModelConfig) -> PreTrainedConfig:
    """The architecture of ``model.name``: the demo's, a local model's, a published one, or a cached hub model's."""
    name = model.name
    if name in PUBLISHED:
        return PUBLISHED[name]
    try:
        found: PreTrainedConfig = AutoConfig.from_pretrained(
            ASSETS if name == "demo" else local_name(model), local_files_only=True, trust_remote_code=False
        )
    except LOADING_FAULTS as error:
        if (Path(name) / "config.json").is_file():
            raise ConfigError(
                f'model.name = "{name}": transformers {version} cannot use its config.json: {first_line(error)}'
            ) from error
        where = "a directory without a config.json" if Path(name).exists() else "not in the local cache"
        raise ConfigError(
            f'model.name = "{name}": {where}, so its shape is not known without a download; known by heart: '
            f"{', '.join(PUBLISHED)}"
        ) from error
    return found


def build_shape(config: PreTrainedConfig, lora: LoraConfig) -> Shape:
    """Build the model of ``config`` with its adapter on the ``meta`` device and count."""
    with torch.device("meta"):
        try:
            base = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
        except _NO_MODEL as error:
            raise ConfigError(_no_causal_model(config, error)) from None
        parameters = sum(parameter.numel() for parameter in base.parameters())
        linear = quantizable(base)
        weights = [module.weight for module in linear]
        rows = [w.shape[1] if isinstance(m, Conv1D) else w.shape[0] for m, w in zip(linear, weights, strict=True)]
        counts = parameters, sum(weight.numel() for weight in weights), sum(rows)
        model = adapt(base, lora)
    layout = Layout.of({name: p.shape for name, p in model.named_parameters() if p.requires_grad})
    return Shape(config, model, layout, *counts)


def _no_causal_model(config: PreTrainedConfig, error: Exception) -> str:
    """Why there is no causal language model of an architecture, without transformers' list of all that there are."""
    name = f'model.name = "{config.name_or_path}"' if config.name_or_path else "model.name"
    if "Unrecognized configuration class" not in str(error):
        return f"{name}: its config.json makes no model ({type(error).__name__}: {first_line(error)})"
    return (
        f'{name}: its config.json is of type "{config.model_type}", which is no causal language model; give a decoder, '
        "for example a Llama, Qwen, Mistral, Gemma or GPT-2"
    )


def quantizable(base: nn.Module) -> list[nn.Linear | Conv1D]:
    """The linear layers that transformers quantizes: all but the output layer."""
    output = base.get_output_embeddings()  # type: ignore[operator]  # every causal language model has one
    return [module for module in base.modules() if isinstance(module, nn.Linear | Conv1D) and module is not output]


def shallow(config: PreTrainedConfig, layers: int) -> PreTrainedConfig:
    """The same architecture with so many layers."""
    fields = config.to_dict() | {_layer_key(config): layers}
    fields.pop("layer_types", None)  # one entry a layer; made anew
    if fields.get("loss_type") is None:
        fields.pop("loss_type", None)  # given as None it is warned of
    return type(config).from_dict(fields)


def _layer_key(config: PreTrainedConfig) -> str:
    return config.attribute_map.get("num_hidden_layers", "num_hidden_layers")
