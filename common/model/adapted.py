"""The frozen foundation model with its LoRA adapter, loaded once per process.

The adapter's trainable factors and their gradients are views of two flat buffers, so loading an adapter is one copy and
reading a gradient is one clone, whatever the number of tensors.
"""

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from common.adapter import Layout
from common.config import LoraConfig, ModelConfig
from common.model.base import device_of, load_base
from common.model.lora import adapt, is_factor
from common.model.memory import ModelMemory


@dataclass(frozen=True)
class AdaptedModel:
    """A causal language model whose LoRA adapter can be read and written as one flat vector of ``layout.size``.

    ``initial`` is the freshly initialized adapter (shape ``[n]``), whatever has been loaded since.
    """

    model: PeftModel
    tokenizer: PreTrainedTokenizerBase
    layout: Layout
    parameters: Tensor
    gradients: Tensor
    initial: Tensor
    remote: "RemoteFactors"
    memory: ModelMemory

    @property
    def device(self) -> torch.device:
        """Where the adapter lives."""
        return self.parameters.device

    @property
    def words(self) -> int:
        """How many words the model tells apart: the width of its logits."""
        base: Any = self.model.get_base_model()
        return int(base.config.get_text_config().vocab_size)

    def load(self, adapter: Tensor) -> None:
        """Overwrite the adapter with a flat vector (shape ``[n]``), and forget old gradients and what was read."""
        with torch.no_grad():
            self.parameters.copy_(adapter)
        self.remote.refresh()
        self.gradients.zero_()
        self.memory.forget()

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


class RemoteFactors:
    """Factors that cannot be views of the flat buffers, since their layers are on another GPU: kept equal to them.

    Every forward pass begins with a copy of the flat parameters, every backward pass adds its gradients to the flat
    ones; both together are as many bytes as the adapter.

    Args:
        model: the adapted model.
        factors: the trainable parameters that are elsewhere, by name.
        values: views of the flat parameters, by name.
        slopes: views of the flat gradients, by name.

    """

    def __init__(
        self, model: nn.Module, factors: dict[str, nn.Parameter], values: dict[str, Tensor], slopes: dict[str, Tensor]
    ) -> None:
        self._pairs = [(factor, values[name]) for name, factor in factors.items()]
        for name, factor in factors.items():
            factor.register_post_accumulate_grad_hook(_sender(slopes[name]))
        if factors:
            model.register_forward_pre_hook(lambda *_: self.refresh())

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the flat parameters to the other GPUs."""
        for factor, value in self._pairs:
            factor.copy_(value, non_blocking=True)


@lru_cache(maxsize=2)
def load_adapted_model(model: ModelConfig, lora: LoraConfig, seed: int) -> AdaptedModel:
    """Load the base model, put a freshly initialized LoRA adapter on it, and keep both for this process.

    The initial adapter depends on ``seed`` alone (A uniform as in peft, B zero), so every party starts from the same
    one. Raises ``ConfigError`` when the model cannot be had or the target modules do not exist in it.
    """
    base, tokenizer = load_base(model)
    adapted = assemble(base, tokenizer, lora, seed, device_of(model))
    gc.freeze()  # the model's objects never die; a collector that walks them costs more than a training step
    return adapted


def assemble(
    base: nn.Module, tokenizer: PreTrainedTokenizerBase, lora: LoraConfig, seed: int, home: torch.device
) -> AdaptedModel:
    """Put a fresh adapter on ``base``, bound to flat buffers on ``home``; raises ``ConfigError`` as ``adapt`` does."""
    model = adapt(base, lora)
    model.train(False)  # the base comes in evaluation mode, the adapter in training mode: one mode for all
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    layout = Layout.of({name: parameter.shape for name, parameter in trainable.items()})
    _initialize(model, seed)
    parameters = layout.flatten({name: parameter.detach().to(home) for name, parameter in trainable.items()})
    gradients = torch.zeros_like(parameters)
    values, slopes = layout.unflatten(parameters), layout.unflatten(gradients)
    elsewhere = {name: parameter for name, parameter in trainable.items() if parameter.device != home}
    for name in trainable.keys() - elsewhere.keys():
        trainable[name].data = values[name]
        trainable[name].grad = slopes[name]
    remote = RemoteFactors(model, elsewhere, values, slopes)
    return AdaptedModel(model, tokenizer, layout, parameters, gradients, parameters.clone(), remote, ModelMemory(model))


def _initialize(model: PeftModel, seed: int) -> None:
    """A uniform and B zero, whatever peft drew: of embeddings it draws B, from torch's own generator."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters(), key=lambda pair: pair[0]):
        if is_factor(name, "A"):
            parameter.data.copy_(_drawn(name, parameter.shape, generator))
        elif is_factor(name, "B"):
            parameter.data.zero_()


def initial_adapter(layout: Layout, seed: int) -> Tensor:
    """The fresh adapter of a layout (shape ``[n]``), as ``load_adapted_model`` makes it, without a model."""
    generator, vector = torch.Generator().manual_seed(seed), torch.zeros(layout.size)
    for piece in layout.tensors:
        if is_factor(piece.name, "A"):
            vector[piece.offset : piece.end] = _drawn(piece.name, piece.shape, generator).reshape(-1)
    return vector


def _drawn(name: str, shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """A factor A as peft draws it: kaiming uniform with a = sqrt(5)."""
    # of an embedding a token picks one column of A: no sum of many inputs to scale for
    bound = 1.0 if "lora_embedding" in name else shape[1] ** -0.5
    return torch.empty(tuple(shape)).uniform_(-bound, bound, generator=generator)


def _sender(slope: Tensor) -> Callable[[Tensor], None]:
    def send(factor: Tensor) -> None:
        if factor.grad is not None:
            slope.add_(factor.grad.to(slope))
            factor.grad = None

    return send
