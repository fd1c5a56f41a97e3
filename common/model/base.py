"""The frozen base model with its tokenizer: embedded, from a directory or from the hub; quantized if asked for.

Every reason for which one cannot be had is a ``ConfigError`` that says what to do about it.
"""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from peft import prepare_model_for_kbit_training
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as hf_logging

from common.config import ConfigError, ModelConfig
from common.demo.model import load_model as load_demo_model
from common.demo.model import load_tokenizer as load_demo_tokenizer
from common.file_names import names_a_file
from common.model.causal import check_architecture, check_causal
from common.model.gguf import local_name
from common.model.precision import dtype_of
from common.model.token_ids import begin_ids, leave_ends_open
from common.model.weights_check import LOADING_FAULTS, check_loaded, damaged, first_line, load_with_info

hf_logging.disable_progress_bar()  # it would mix into what a command says; who waits for a model is told otherwise
COMPUTE_DTYPE = torch.bfloat16
"""Quantized weights are multiplied in this dtype (QLoRA)."""
_TOKENIZER = ("tokenizer*", "vocab*", "*.model", "*.tiktoken")  # files, one of which every tokenizer has
_PROBE_WIDTH = 64  # one block of bitsandbytes' 4-bit format


def load_base(model: ModelConfig) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load the base model onto its device(s), ready for an adapter, and its tokenizer, which can pad.

    Raises ``ConfigError`` when the model cannot be found or reached, when a hub model is gated, and when the device
    cannot do what ``model.quantization`` or ``model.device-map`` asks for.
    """
    device = device_of(model)
    if model.quantization != "none":
        _check_quantization(model.quantization, device)
    base, tokenizer = _fetch(model, device)
    base.generation_config = _plain_generation(base, tokenizer)
    if model.quantization == "none" and model.device_map == "none":
        base = base.to(device)  # type: ignore[arg-type]  # the stub of a decorated method
    check_ids(tokenizer, base, model.name)
    if model.quantization == "none":  # a forward pass changes what 8-bit layers keep
        check_causal(base, model.name)
    return prepare(base, model, device), tokenizer


def prepare(base: PreTrainedModel, model: ModelConfig, device: torch.device) -> PreTrainedModel:
    """Make a loaded model ready for an adapter: QLoRA's casts if it is quantized, checkpointing if it is asked for."""
    if model.quantization != "none":
        prepare_model_for_kbit_training(base, use_gradient_checkpointing=False)
        _keep_one_format(base)
        _compute_in_bfloat16(base, device)
    if model.gradient_checkpointing:
        base.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    return base


def device_of(model: ModelConfig) -> torch.device:
    """Where the model lives; the first GPU when it is spread over several.

    Raises ``ConfigError`` for GPUs that this machine does not have.
    """
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if model.device_map != "none" and found < 2:
        raise ConfigError(
            f'model.device-map = "{model.device_map}": spreads layers over several GPUs, this process sees {found}; '
            'set it to "none"'
        )
    name = ("cuda" if found else "cpu") if model.device == "auto" else model.device
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= found:
        raise ConfigError(f'model.device = "{name}": CUDA devices on this machine: {found}; give "auto" or "cpu"')
    return torch.empty(0, device=device).device  # "cuda" becomes "cuda:0", as tensors call it


def _fetch(model: ModelConfig, device: torch.device) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if model.name == "demo":
        return load_demo_model(), load_demo_tokenizer()
    place = local_name(model)
    tokenizer = load_tokenizer(place)
    try:
        check_architecture(AutoConfig.from_pretrained(place, trust_remote_code=False), model.name)
        base, info = load_with_info(place, **_loading_options(model, device))
    except SafetensorError as error:
        raise ConfigError(damaged(model.name, error)) from error
    except ConfigError:
        raise
    except LOADING_FAULTS as error:
        raise ConfigError(f'model.name = "{model.name}": {explain(model.name, error)}') from error
    check_loaded(model.name, info)
    return base, tokenizer


def check_ids(tokenizer: PreTrainedTokenizerBase, base: nn.Module, name: str) -> None:
    """Refuse a tokenizer whose special tokens have no row in the embedding: an index error deep in the first step.

    Raises ``ConfigError``.
    """
    rows = base.get_input_embeddings().weight.shape[0]  # type: ignore[operator]  # peft's own has no num_embeddings
    named = [("pad", tokenizer.pad_token_id), ("end-of-text", tokenizer.eos_token_id)]
    for kind, number in (*named, *(("begin-of-text", number) for number in begin_ids(tokenizer))):
        if number is not None and number >= rows:
            raise ConfigError(
                f'model.name = "{name}": the tokenizer\'s {kind} token {tokenizer.convert_ids_to_tokens(number)!r} has '
                f"id {number}, and the model has {rows} rows, 0 to {rows - 1}; resize the model's embedding or take "
                "another token in tokenizer_config.json"
            )


def _plain_generation(base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    """Generation as this app asks for it: of the model folder's own settings only the end-of-text tokens stay.

    Chat models bring sampling, beams, penalties and forbidden tokens, which ``generate`` would fill in for everything
    that a caller leaves open.
    """
    own = getattr(base.generation_config, "eos_token_id", None)
    ends = dict.fromkeys([tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])])
    return GenerationConfig(
        eos_token_id=[end for end in ends if end is not None] or None,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a directory or hub model, which pads with its end-of-text where it has no padding of its own.

    Raises ``ConfigError`` when there is none.
    """
    folder = Path(name)
    if (folder / "config.json").is_file() and not any(found for kind in _TOKENIZER for found in folder.glob(kind)):
        raise ConfigError(  # transformers makes an empty one for some types of model
            f'model.name = "{name}": no tokenizer there; save it beside the model (tokenizer.json, '
            "tokenizer_config.json), as hf download does"
        )
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # tokenizers raises nothing more special for a file that it cannot read
        there = (folder / "config.json").is_file()
        why = f"its tokenizer cannot be read: {first_line(error)}" if there else explain(name, error)
        raise ConfigError(f'model.name = "{name}": {why}') from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    leave_ends_open(tokenizer)
    return tokenizer


def explain(name: str, error: BaseException) -> str:
    """Why a model could not be loaded, and what to do; ``error`` is what transformers raised, with its causes."""
    if Path(name).exists():
        return f"could not be loaded as a local directory of a causal language model: {first_line(error)}"
    if names_a_file(name):
        return 'no such directory or file; give "demo", a hub id, a directory or a .gguf file'
    causes = list(_causes(error))
    if any(isinstance(cause, GatedRepoError) for cause in causes):
        return (
            f"this hub model is gated: accept its license at https://huggingface.co/{name}, then log in on every "
            "machine that loads it (hf auth login, or the environment variable HF_TOKEN)"
        )
    if any(isinstance(cause, RepositoryNotFoundError) for cause in causes):
        return (
            "the hub has no such model, or it is private: look at the spelling, or log in (hf auth login, or the "
            "environment variable HF_TOKEN)"
        )
    if any(isinstance(cause, LocalEntryNotFoundError | OfflineModeIsEnabled | ConnectionError) for cause in causes):
        return (
            "no such local directory, the model hub cannot be reached, and the local cache does not hold the model: "
            f"where there is a network, run hf download {name} --local-dir DIR, and set model.name to that directory"
        )
    return f"could not be loaded as a hub id or local directory of a causal language model: {first_line(error)}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _loading_options(model: ModelConfig, device: torch.device) -> dict[str, Any]:
    options: dict[str, Any] = {"dtype": dtype_of(model), "trust_remote_code": False}  # nor asks for it
    if model.device_map != "none":
        options["device_map"] = model.device_map
    if model.quantization != "none":
        from transformers import BitsAndBytesConfig  # noqa: PLC0415 - bitsandbytes is slow to import

        options["quantization_config"] = BitsAndBytesConfig(
            load_in_8bit=model.quantization == "8",
            load_in_4bit=model.quantization == "4",
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=COMPUTE_DTYPE,
        )
        options.setdefault("device_map", {"": device})
    return options


def _check_quantization(bits: str, device: torch.device) -> None:
    try:
        _probe_quantization(bits, device)
    except Exception as error:
        raise ConfigError(
            f'model.quantization = "{bits}": bitsandbytes cannot do it on device "{device}" '
            f"({type(error).__name__}: {error}); use another device, or set it to none"
        ) from error


@lru_cache(maxsize=4)
def _probe_quantization(bits: str, device: torch.device) -> None:
    """Send a gradient through one quantized layer: what fails here would fail minutes later, at the first step."""
    from bitsandbytes import nn as quantized  # noqa: PLC0415 - slow to import

    width = _PROBE_WIDTH
    if bits == "4":
        layer: nn.Module = quantized.Linear4bit(  # type: ignore[attr-defined]
            width, width, bias=False, compute_dtype=COMPUTE_DTYPE, compress_statistics=True, quant_type="nf4"
        )
    else:
        layer = quantized.Linear8bitLt(width, width, bias=False, has_fp16_weights=False)  # type: ignore[attr-defined]
    probe = torch.ones(2, width, device=device, requires_grad=True)
    layer.to(device)(probe).sum().backward()
    if probe.grad is None or not torch.isfinite(probe.grad).all():
        raise RuntimeError("a gradient did not come through")


def _keep_one_format(base: nn.Module) -> None:
    """Forbid bitsandbytes to repack 4-bit weights at the first evaluation on a CPU.

    Repacked ones round otherwise than those that were trained with, and fail where a layer has a bias and trains.
    """
    for module in base.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def _compute_in_bfloat16(base: nn.Module, device: torch.device) -> None:
    """Run the forward pass under autocast: the parts that are not quantized are float32 and would else compute so."""
    base.forward = torch.autocast(device.type, COMPUTE_DTYPE)(base.forward)  # type: ignore[method-assign]
