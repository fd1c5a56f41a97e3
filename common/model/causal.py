"""Causal language models only: what one says at a place depends on nothing behind it.

transformers loads some that are not (BERT and its kin unless ``is_decoder`` is set, XLNet). They read the answer that
they are asked for, so their loss goes to zero, and what they write is nothing.
"""

from collections.abc import Iterator

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from common.config import ConfigError

_WANTED = "a causal (decoder-only) language model is needed, such as Llama, Qwen, Gemma or GPT-2"
_DECODERS = ("gpt_neox", "gpt_neox_japanese")  # causal though they say is_decoder = false
_BOTH_WAYS = ("xlm", "xlnet")
_TOLERANCE = 1e-4  # of the largest logit; a causal model's are equal, BERT's with random weights differ by 3e-3


def check_architecture(config: PreTrainedConfig, name: str) -> None:
    """Refuse encoder-decoder models (T5, BART), bidirectional ones (BERT), and those that write no text.

    One whose config.json names attention code of a hub is refused, too: it would be fetched and run. So are one of
    flex attention, compiled anew for each length of a text, which its time and a cache would tell, and one that changes
    its attention at the first short text that it reads (BigBird), and keeps the other. Raises ``ConfigError``.
    """
    code = " ".join(_attentions(config))
    if "/" in code:
        raise ConfigError(
            f'model.name = "{name}": its config.json asks for attention code of a hub, attn_implementation = "{code}"; '
            "code that comes with a model is never run: leave it out"
        )
    if "flex" in code:
        raise ConfigError(
            f'model.name = "{name}": attn_implementation = "{code}" in its config.json: it is compiled anew for each '
            "length of a text; leave it out"
        )
    if getattr(config, "attention_type", "") == "block_sparse":
        raise ConfigError(
            f'model.name = "{name}": attention_type = "block_sparse" in its config.json: its attention changes for '
            'good at the first short text; write "original_full" there'
        )
    if getattr(config, "is_encoder_decoder", False):
        raise ConfigError(f'model.name = "{name}": an encoder-decoder model ({config.model_type}); {_WANTED}')
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ConfigError(f'model.name = "{name}": a {config.model_type} model does not continue texts; {_WANTED}')
    kind = config.model_type
    encoder = getattr(config, "is_decoder", True) is False and kind not in _DECODERS
    if encoder or (kind in _BOTH_WAYS and not getattr(config, "causal", False)):
        _refuse(kind, name)


def _attentions(config: PreTrainedConfig) -> Iterator[str]:
    """What attention a configuration asks for, and those within it (of a model of text and pictures, say)."""
    yield str(getattr(config, "_attn_implementation", ""))
    for name in config.sub_configs:
        if isinstance(part := getattr(config, name, None), PreTrainedConfig):
            yield from _attentions(part)


def check_attention(model: nn.Module, name: str) -> None:
    """Refuse a model all of whose attention says that it looks both ways; no weights are needed.

    Raises ``ConfigError``.
    """
    said = [module.is_causal for module in model.modules() if isinstance(getattr(module, "is_causal", None), bool)]
    if said and not any(said):
        _refuse(_kind(model), name)


@torch.no_grad()
def check_causal(model: PreTrainedModel, name: str) -> None:
    """Refuse a loaded model whose first word changes with a later one: two short texts tell.

    Raises ``ConfigError``.
    """
    ids = torch.tensor([[1, 0, 1, 0], [1, 0, 1, 1]], device=model.device)
    training = model.training
    model.train(False)
    first, second = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[:, :3].float()
    model.train(training)
    if (first - second).abs().max() > _TOLERANCE * first.abs().max():
        _refuse(_kind(model), name)


def _kind(model: nn.Module) -> str:
    return str(getattr(getattr(model, "config", None), "model_type", "unknown"))


def _refuse(kind: str, name: str) -> None:
    raise ConfigError(f'model.name = "{name}": a bidirectional model ({kind}), which sees the words to come; {_WANTED}')
