"""The frozen foundation model with its LoRA adapter, loaded once per process.

The adapter's trainable factors and their gradients are views of two flat buffers, so loading an adapter is one copy and
reading a gradient is one clone, whatever the number of tensors.
"""

import gc
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel, TaskType, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from common.adapter import Layout
from common.config import ConfigError, LoraConfig, ModelConfig
from common.demo.model import load_model as load_demo_model
from common.demo.model import load_tokenizer as load_demo_tokenizer


@dataclass(frozen=True)
class AdaptedModel:
    """A causal language model whose LoRA adapter can be read and written as one flat vector of ``layout.size``.

    ``initial`` is the freshly initialised adapter (shape ``[n]``), whatever has been loaded since.
    """

    model: PeftModel
    tokenizer: PreTrainedTokenizerBase
    layout: Layout
    parameters: Tensor
    gradients: Tensor
    initial: Tensor

    @property
    def device(self) -> torch.device:
        """Where the adapter lives."""
        return self.parameters.device

    def load(self, adapter: Tensor) -> None:
        """Overwrite the adapter with a flat vector (shape ``[n]``) and forget old gradients."""
        with torch.no_grad():
            self.parameters.copy_(adapter)
        self.gradients.zero_()

    def training_mode(self, training: bool) -> None:
        """Switch dropout on or off; walking the modules costs a fifth of a small step, so only when it changes."""
        if self.model.training != training:
            self.model.train(training)

    def adapter(self) -> Tensor:
        """A copy of the adapter as a flat float32 vector (shape ``[n]``)."""
        return self.parameters.detach().clone()

    def gradient(self) -> Tensor:
        """A copy of the accumulated gradient as a flat float32 vector (shape ``[n]``)."""
        return self.gradients.clone()


@lru_cache(maxsize=2)
def load_adapted_model(model: ModelConfig, lora: LoraConfig, seed: int) -> AdaptedModel:
    """Load the base model, put a freshly initialised LoRA adapter on it, and keep both for this process.

    The initial adapter depends on ``seed`` alone (A uniform as in peft, B zero), so every party starts from the same
    one. Raises ``ConfigError`` when the model cannot be had or the target modules do not exist in it.
    """
    base, tokenizer = _load_base(model)
    device = _device(model)
    base = base.to(device) if model.quantization == "none" else base
    peft_model = _adapt(base, lora)
    peft_model.train(False)  # the base comes in evaluation mode, the adapter in training mode: one mode for all
    trainable = {name: p for name, p in peft_model.named_parameters() if p.requires_grad}
    layout = Layout.of({name: parameter.shape for name, parameter in trainable.items()})
    _initialise(peft_model, seed)
    parameters, gradients = _bind_flat(trainable, layout, device)
    gc.freeze()  # the model's objects never die; a collector that walks them costs more than a training step
    return AdaptedModel(peft_model, tokenizer, layout, parameters, gradients, parameters.clone())


def _device(model: ModelConfig) -> torch.device:
    if model.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(model.device)


def _load_base(model: ModelConfig) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    if model.name == "demo":
        return load_demo_model(), load_demo_tokenizer()
    try:
        tokenizer = AutoTokenizer.from_pretrained(model.name)
        base = AutoModelForCausalLM.from_pretrained(model.name, **_loading_options(model))
    except (OSError, ValueError) as error:
        kind = "local directory" if Path(model.name).exists() else "hub id or local directory"
        raise ConfigError(
            f'model.name = "{model.name}": could not be loaded as a {kind} of a causal language model: {error}'
        ) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return base, tokenizer


def _loading_options(model: ModelConfig) -> dict[str, Any]:
    options: dict[str, Any] = {"dtype": getattr(torch, model.dtype)}
    if model.quantization != "none":
        from transformers import BitsAndBytesConfig  # noqa: PLC0415 - bitsandbytes is slow to import

        options["quantization_config"] = BitsAndBytesConfig(
            load_in_8bit=model.quantization == "8",
            load_in_4bit=model.quantization == "4",
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
        options["device_map"] = {"": _device(model)}
    return options


def _adapt(base: nn.Module, lora: LoraConfig) -> PeftModel:
    settings = PeftLoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # peft scales by any real alpha
        lora_dropout=lora.dropout,
        target_modules=lora.targets,
    )
    try:
        peft_model = get_peft_model(base, settings)  # type: ignore[arg-type]
    except ValueError as error:
        leaves = sorted({name.rsplit(".", 1)[-1] for name, m in base.named_modules() if isinstance(m, nn.Linear)})
        raise ConfigError(
            f'lora.target-modules = "{lora.target_modules}": {error} Linear modules of this model: {", ".join(leaves)}'
        ) from error
    for name, parameter in peft_model.named_parameters():
        if "lora_A" in name and lora.freeze_a:
            parameter.requires_grad_(False)
    return peft_model  # type: ignore[return-value]


def _initialise(model: PeftModel, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters(), key=lambda pair: pair[0]):
        if "lora_A" in name:
            bound = parameter.shape[1] ** -0.5  # kaiming uniform with a = sqrt(5), as peft draws A
            values = torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator)
            parameter.data.copy_(values)
        elif "lora_B" in name:
            parameter.data.zero_()


def _bind_flat(trainable: dict[str, nn.Parameter], layout: Layout, device: torch.device) -> tuple[Tensor, Tensor]:
    parameters = layout.flatten(trainable).to(device)
    gradients = torch.zeros_like(parameters)
    values, slopes = layout.unflatten(parameters), layout.unflatten(gradients)
    for name, parameter in trainable.items():
        parameter.data = values[name]
        parameter.grad = slopes[name]
    return parameters, gradients
