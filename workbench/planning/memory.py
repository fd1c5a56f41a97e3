"""Memory of a client and of the server: weights, adapter, code exactly, activations traced on the real architecture.

Activations are traced with torch's fake tensors: two layers of the true width run forward on a batch of the configured
size, and every tensor that autograd keeps is counted, without a byte being allocated. One layer's share times the
number of layers is what a step without checkpointing keeps.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PreTrainedConfig
from transformers.pytorch_utils import Conv1D

from common.config import LoraConfig, ModelConfig, RunConfig
from common.model.attention import FUSED, MOST, PLAIN, score_bytes
from common.model.label_logits import only_places, output_layer
from common.model.label_loss import PIECE, label_loss
from common.model.precision import dtype_name, dtype_of, on_cpu
from server_app.results.evaluation_batches import LOGITS, TOKENS
from server_app.strategies.recipe import Recipe
from workbench.planning.architectures import Shape, build_shape, quantizable, shallow
from workbench.planning.step import Batch

CARD_BYTES = 1_000_000_000
"""Assumed: CUDA context, cuBLAS workspaces, and what the allocator cannot use."""
PROCESS_BYTES = 700_000_000
"""Of a client's process on a CPU: interpreter, libraries, its messages, rows."""
_CPU_WASTE = 1.45
"""On a CPU: memory by what torch has in use. The rest are freed pieces that the system's allocator holds on to."""
_BLOCK, _NESTED_BLOCK = 64, 256  # weights per 8-bit scale, scales per float32 scale: bitsandbytes' 4-bit format
_ITEM = {"float32": 4, "bfloat16": 2, "float16": 2}
_CODEC_BYTES = 28  # per adapter value: permutation 8, signs 4, sorting them 16 (gathered values 4 come later)
_CONV_ENCODING, _CONV_TRAINING = 41, 1_830  # per adapter value, by torch's profiler; the second of 16 gradients a step
_DENSE_BATCH = 256  # per adapter value, of the gradients of a step and what they become
_LOGIT_BYTES = 12  # per scored logit: as the model gives it, as float32, and its log-probability
_STREAMS = 8  # hidden states alive at a time in a layer without gradients, beside three of its widest
_LOSS_PIECES = 12  # bytes per logit of those that the loss works on at a time


@dataclass(frozen=True)
class Memory:
    """Bytes on one client's device in a local step."""

    weights: int
    adapter: int
    codec: int
    activations: int
    activations_checkpointed: int
    checkpointing: bool
    runtime: int

    @property
    def total(self) -> int:
        """Everything, with the activations that the configuration keeps."""
        kept = self.activations_checkpointed if self.checkpointing else self.activations
        return self.weights + self.adapter + self.codec + kept + self.runtime

    @property
    def on_card(self) -> int:
        """Everything that a GPU holds of it."""
        return self.total - self.runtime + CARD_BYTES


def estimate(config: RunConfig, shape: Shape, batch: Batch, recipe: Recipe) -> Memory:
    """Memory of one client under ``config``, whose strategy asks it for what ``recipe`` says."""
    keeps = 2 if config.train.optimizer == "adamw" else 0
    whole, checkpointed = activation_bytes(config, shape, batch)
    waste = _CPU_WASTE if on_cpu(config.model) else 1.0
    return Memory(
        weights=weight_bytes(config.model, shape),
        adapter=4 * shape.layout.size * (4 + keeps),  # values, gradients, initial ones, one copy of the gradient
        codec=_encoding_bytes(config, recipe),
        activations=round(waste * whole),
        activations_checkpointed=round(waste * checkpointed),
        checkpointing=config.model.gradient_checkpointing,
        runtime=_runtime(config.model),
    )


@dataclass(frozen=True)
class ServerMemory:
    """Bytes on the server's device: between rounds it holds the model, in an evaluation pass one pass more."""

    weights: int
    adapter: int
    codec: int
    evaluation: int
    runtime: int

    @property
    def total(self) -> int:
        """Everything."""
        return self.weights + self.adapter + self.codec + self.evaluation + self.runtime

    @property
    def on_card(self) -> int:
        """Everything that a GPU holds of it."""
        return self.total - self.runtime + CARD_BYTES


def estimate_server(config: RunConfig, shape: Shape, recipe: Recipe) -> ServerMemory:
    """Memory of the server under ``config``; one evaluation pass is bounded (``evaluation_batches``)."""
    moments = {"sgd": 0, "momentum": 1, "adam": 2}.get(config.server.optimizer, 2)
    quantized = config.model.quantization != "none"  # float32 between layers, bfloat16 inside
    stream, inside = (4, 2) if quantized else (_ITEM[dtype_name(config.model)],) * 2
    widest = max((max(module.weight.shape) for module in quantizable(shape.model.get_base_model())), default=0)
    text = shape.config.get_text_config()
    tokens = max(TOKENS, config.data.max_length)
    logits = max(LOGITS, config.data.max_length * text.vocab_size)
    return ServerMemory(
        weights=weight_bytes(config.model, shape),
        adapter=4 * shape.layout.size * (6 + moments),  # values, gradients, initial, the optimizer's, a sum, a decoding
        codec=_training_bytes(config, recipe) if recipe.learned else _encoding_bytes(config, recipe),
        evaluation=tokens * (_STREAMS * text.hidden_size * stream + 3 * widest * inside) + _LOGIT_BYTES * logits,
        runtime=_runtime(config.model),
    )


def _encoding_bytes(config: RunConfig, recipe: Recipe) -> int:
    if recipe.sends_whole:
        return 4 * recipe.layout.size
    if not recipe.learned:
        return _CODEC_BYTES * recipe.layout.size
    each = _CONV_ENCODING if config.codec.kind == "conv" else 4 * recipe.code_size + 4
    return each * recipe.layout.size


def _training_bytes(config: RunConfig, recipe: Recipe) -> int:
    """While the server trains an AutoEncoder: weights, gradients and Adam's moments of both halves, and a batch."""
    each = _CONV_TRAINING if config.codec.kind == "conv" else 32 * recipe.code_size + _DENSE_BATCH
    return round((_CPU_WASTE if on_cpu(config.model) else 1.0) * each * recipe.layout.size)


def _runtime(model: ModelConfig) -> int:
    return PROCESS_BYTES if on_cpu(model) else CARD_BYTES


def weight_bytes(model: ModelConfig, shape: Shape) -> int:
    """Bytes of the frozen weights; beside quantized ones everything else is float32 (QLoRA's preparation)."""
    if model.quantization == "none":
        return shape.parameters * _ITEM[dtype_name(model)]
    rest = 4 * (shape.parameters - shape.linear_parameters)
    count = shape.linear_parameters
    if model.quantization == "8":
        return rest + count + 4 * shape.linear_rows
    return rest + count // 2 + count // _BLOCK + 4 * count // (_BLOCK * _NESTED_BLOCK)


def activation_bytes(config: RunConfig, shape: Shape, batch: Batch) -> tuple[int, int]:
    """What the backward pass of one micro-batch needs kept: without and with gradient checkpointing."""
    rows, length = batch.rows, batch.length
    attention = _attention(config.model, shape.config, batch)
    one, two = (_kept(config.model, config.lora, shallow(shape.config, depth), batch, attention) for depth in (1, 2))
    layer, rest = two - one, 2 * one - two
    layers = shape.config.num_hidden_layers
    logits = batch.labels * shape.config.vocab_size
    item = _ITEM[dtype_name(config.model)]
    rest += item * logits + _LOSS_PIECES * min(PIECE, logits)  # a step holds them until its end
    stream = 4 if config.model.quantization != "none" else item
    inputs = rows * length * shape.config.hidden_size * stream
    return rest + layers * layer, rest + layers * inputs + layer


def _attention(model: ModelConfig, config: PreTrainedConfig, batch: Batch) -> str:
    """The attention that a client takes for such batches (``choose_attention``)."""
    slow = on_cpu(model) and (dtype_name(model), model.quantization) == ("bfloat16", "none")
    return PLAIN if slow and score_bytes(config, batch.rows, batch.length) <= MOST else FUSED


def _kept(model: ModelConfig, lora: LoraConfig, config: PreTrainedConfig, batch: Batch, attention: str) -> int:
    """Bytes that autograd keeps of a forward pass, beside the model itself."""
    adapted = build_shape(config, lora).model
    base: Any = adapted.get_base_model()
    if getattr(base.config, "_attn_implementation", "") == FUSED:
        base.set_attn_implementation(attention)
    quantized = model.quantization != "none"
    dtype = torch.float32 if quantized else dtype_of(model)
    with FakeTensorMode():
        _materialise(adapted, dtype)
        if quantized:
            _imitate_quantization(adapted)
        adapted.train()
        tokens = torch.zeros(batch.rows, batch.length, dtype=torch.long)
        with torch.autocast("cpu", torch.bfloat16, enabled=quantized):
            return kept_bytes(adapted, tokens, batch.labels)


def kept_bytes(model: PeftModel, tokens: Tensor, labels: int) -> int:
    """Bytes of all distinct storages that autograd keeps of a forward pass with so many labels, the model's own apart.

    ``tokens``: shape ``[sequences, length]``.
    """
    own = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage  # held, so that no later one gets its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        places = torch.arange(min(labels, tokens.numel()))
        columns, rows = places // len(tokens), places % len(tokens)
        head = output_layer(model)
        with only_places(head, tokens.shape, rows, columns) if head else nullcontext():
            logits = model(input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False).logits
            label_loss(logits.flatten(0, 1), tokens.new_zeros(logits.shape[:2].numel()), 1)
    return sum(storage.nbytes() for storage in kept.values())


def _materialise(model: PeftModel, dtype: torch.dtype) -> None:
    """Replace ``meta`` tensors by fake ones on the CPU, frozen floating ones in ``dtype``; tied ones stay tied."""
    fakes: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, old in module._parameters.items():
            if old is not None:
                kind = old.dtype if old.requires_grad else dtype
                if id(old) not in fakes:
                    fakes[id(old)] = nn.Parameter(torch.empty(old.shape, dtype=kind), old.requires_grad)
                module._parameters[name] = fakes[id(old)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


class _FrozenProduct(torch.autograd.Function):
    """A product with quantized weights: of its input autograd keeps nothing."""

    @staticmethod
    def forward(_: object, values: Tensor, width: int) -> Tensor:
        """The shape of the result, which is all that is asked."""
        return values.new_empty(*values.shape[:-1], width)


def _imitate_quantization(model: PeftModel) -> None:
    """Let every frozen linear layer compute as bitsandbytes' do: bfloat16 inside, the input's dtype outside."""
    for module in quantizable(model.get_base_model()):
        if not module.weight.requires_grad:
            width = module.weight.shape[1] if isinstance(module, Conv1D) else module.weight.shape[0]
            module.forward = partial(_quantized, width)  # type: ignore[method-assign]


def _quantized(width: int, values: Tensor) -> Tensor:
    product: Tensor = _FrozenProduct.apply(values.to(torch.bfloat16), width)  # type: ignore[no-untyped-call]
    return product.to(values.dtype)
