"""Gradients of many groups of sequences at once: one forward and one backward pass for all of them.

Every trainable tensor of the adapter is the weight of a linear layer, so a group's gradient of it is the product of
what went into the layer and the gradient of what came out, summed over the group's own tokens.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from common.adapter import Layout
from common.data import IGNORED
from common.model.adapted import AdaptedModel
from common.model.label_logits import logits_at, output_layer

_AT_ONCE = 300  # sequences in a pass: more of them leave the cache


def group_gradients(adapted: AdaptedModel, adapter: Tensor, tokens: Tensor, labels: Tensor) -> Tensor:
    """Gradient of every group's mean loss at ``adapter``, dropout off.

    Args:
        adapted: the model; the adapter is loaded into it.
        adapter: where, shape ``[n]``.
        tokens: shape ``[groups, sequences, length]``, padded at the end with anything.
        labels: the tokens that are learned, ``IGNORED`` elsewhere, of the same shape; what follows a sequence's last
            one is not read.

    Returns:
        Shape ``[groups, n]``, float32, on the CPU; equal to one backward pass a group up to rounding.

    """
    adapted.load(adapter)
    adapted.training_mode(False)
    layers = _layers(adapted)
    step = max(1, _AT_ONCE // tokens.shape[1])
    chunks = [_chunk(adapted, layers, t, s) for t, s in zip(tokens.split(step), labels.split(step), strict=True)]
    adapted.gradients.zero_()
    return torch.cat(chunks)


def are_linear(layout: Layout) -> bool:
    """Whether ``group_gradients`` can take an adapter: every factor is a linear layer's, none an embedding's."""
    return not any("lora_embedding" in piece.name for piece in layout.tensors)


def _layers(adapted: AdaptedModel) -> dict[str, nn.Linear]:
    """The linear layer of every tensor of the layout, by the tensor's name; ``TypeError`` for one of another kind."""
    modules = dict(adapted.model.named_modules())
    found: dict[str, nn.Linear] = {}
    for piece in adapted.layout.tensors:
        layer = modules.get(piece.name.removesuffix(".weight"))
        if not isinstance(layer, nn.Linear):
            raise TypeError(f"{piece.name} is of no linear layer: gradients of groups need them")
        found[piece.name] = layer
    return found


def _chunk(adapted: AdaptedModel, layers: dict[str, nn.Linear], tokens: Tensor, labels: Tensor) -> Tensor:
    groups, each, length = tokens.shape
    places = torch.arange(length, device=adapted.device)
    ids = tokens.flatten(0, 1).long().to(adapted.device)
    wanted = labels.flatten(0, 1).long().to(adapted.device)
    learned = (wanted != IGNORED) & (places > 0)
    ends = (learned * (places + 1)).amax(1)
    width = int(ends.max())
    mask = (places < ends[:, None]).long()
    gradients = torch.zeros(groups, adapted.layout.size, device=adapted.device)
    parts = {
        piece.name: gradients[:, piece.offset : piece.end].view(groups, *piece.shape)
        for piece in adapted.layout.tensors
    }
    handles = [layer.register_forward_hook(partial(_watch, parts[name], each)) for name, layer in layers.items()]
    rows, columns = learned[:, 1:width].nonzero(as_tuple=True)
    whole = _is_within(layers, output_layer(adapted.model))  # an adapter there must see every place of a sequence
    try:
        logits = logits_at(adapted.model, ids[:, : width - 1], mask[:, : width - 1], rows, columns, whole=whole)
    finally:
        for handle in handles:
            handle.remove()
    losses = cross_entropy(logits.float(), wanted[rows, columns + 1], reduction="none")
    weights = 1 / learned.view(groups, -1).sum(1).clamp(min=1).to(losses)
    (losses * weights[rows // each]).sum().backward()
    return gradients.cpu()


def _is_within(layers: dict[str, nn.Linear], head: nn.Module | None) -> bool:
    """Whether one of the layers is a part of ``head``."""
    inside = set() if head is None else set(head.modules())
    return any(layer in inside for layer in layers.values())


def _watch(part: Tensor, each: int, _layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    """When the gradient of a layer's output comes, add the groups' gradients of its weight to ``part``."""
    groups, entered = len(part), inputs[0].detach()

    def write(slope: Tensor) -> None:
        went_in = entered.reshape(groups, each * entered.shape[1], -1).float()
        came_back = slope.reshape(groups, each * slope.shape[1], -1).float()
        part.add_(came_back.transpose(1, 2) @ went_in)

    output.register_hook(write)
