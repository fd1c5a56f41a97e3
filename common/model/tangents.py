"""The model seen from an adapter: slopes and gradients of the losses of public sequences.

Both sides need it: the server makes its prior from such gradients, and a client that was sent no rows applies them
through its own copy of the model (``common.codecs.rows.TangentRows``).
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.func import functional_call, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from common.model.adapted import AdaptedModel

_AT_ONCE = 96  # sequences in a forward pass


class ModelTangents:
    """``common.codecs.base.Tangents`` of an adapted model, dropout off; the loaded adapter is left alone.

    Attention runs in its plain form: the fused kernels have no forward-mode derivative, and one form on both sides
    keeps slopes and gradients transposes of each other to rounding.
    """

    def __init__(self, adapted: AdaptedModel) -> None:
        self._adapted = adapted

    def push(self, point: Tensor, tokens: Tensor, spans: Tensor, direction: Tensor) -> Tensor:
        """Slope of every loss at ``point`` along ``direction`` (both ``[n]``): shape ``[losses]``, by forward mode."""
        device = self._adapted.device
        at, along = point.to(device), direction.to(device)
        slopes = []
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            for rows in self._chunks(tokens):

                def losses(adapter: Tensor, rows: slice = rows) -> Tensor:
                    return self._losses(adapter, tokens[rows], spans[rows])

                slopes.append(jvp(losses, (at,), (along,))[1])
        return torch.cat(slopes).to(direction.device)

    def pull(self, point: Tensor, tokens: Tensor, spans: Tensor, weights: Tensor) -> Tensor:
        """Gradient at ``point`` of the losses' sum under ``weights`` (``[losses]``): shape ``[n]``, one pass back."""
        at = point.to(self._adapted.device).clone().requires_grad_()
        total = torch.zeros_like(at)
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            for rows in self._chunks(tokens):
                weighted = self._losses(at, tokens[rows], spans[rows]) @ weights[rows].to(at)
                total += torch.autograd.grad(weighted, at)[0]
        return total.to(weights.device)

    def _chunks(self, tokens: Tensor) -> Iterator[slice]:
        self._adapted.training_mode(False)
        self._adapted.memory.forget()
        step = max(1, _AT_ONCE // tokens.shape[1])
        return (slice(start, start + step) for start in range(0, len(tokens), step))

    def _losses(self, adapter: Tensor, tokens: Tensor, spans: Tensor) -> Tensor:
        layout, device = self._adapted.layout, self._adapted.device
        flat = tokens.flatten(0, 1).long().to(device)
        ends = spans.flatten(0, 1).long().to(device)
        places = torch.arange(flat.shape[1], device=device)
        mask = (places < ends[:, 1:]).long()
        inputs = {"input_ids": flat[:, :-1], "attention_mask": mask[:, :-1], "use_cache": False}
        logits = functional_call(self._adapted.model, layout.unflatten(adapter), (), inputs).logits
        return span_losses(logits, flat, ends).view(len(tokens), -1).sum(1) / label_counts(spans).to(device)


def span_losses(logits: Tensor, tokens: Tensor, spans: Tensor) -> Tensor:
    """Cross-entropy summed over each label: logits ``[s, length - 1, words]`` and tokens ``[s, length]`` to ``[s]``.

    Every token but the first is told by the logits of the place before it; those of the last place tell nothing.
    """
    places = torch.arange(1, tokens.shape[1], device=tokens.device)
    labeled = (places >= spans[:, :1]) & (places < spans[:, 1:])
    losses = cross_entropy(logits.transpose(1, 2).float(), tokens[:, 1:], reduction="none")
    return (losses * labeled).sum(1)


def label_counts(spans: Tensor) -> Tensor:
    """Label tokens of every loss: ``[losses, sequences, 2]`` to ``[losses]``."""
    return (spans[..., 1] - spans[..., 0]).sum(1).clamp(min=1)
