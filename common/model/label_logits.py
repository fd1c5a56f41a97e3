"""Logits only where a label is: a vocabulary is wide, and most places of a text have none.

The output layer is by far the widest of a small model. What enters it is cut down to the asked places, by a hook before
it, so whatever a model does around it (bias, scaling, soft capping) stays the model's own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from peft import PeftModel
from torch import Tensor, nn

from common.model.attention import choose_attention


def logits_at(
    model: PeftModel, input_ids: Tensor, attention_mask: Tensor, rows: Tensor, columns: Tensor, *, whole: bool = False
) -> Tensor:
    """Logits at the places ``(rows[i], columns[i])`` of a batch: shape ``[places, words]``.

    Args:
        model: the adapted model; its gradient is that of the same logits picked from all of them.
        input_ids: shape ``[sequences, length]``.
        attention_mask: of the same shape.
        rows: of the places, shape ``[places]``; on any device.
        columns: of the places, shape ``[places]``.
        whole: compute all logits and pick afterwards, which a model without an output layer of its own gets anyway.

    """
    choose_attention(model, *input_ids.shape)
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "use_cache": False}
    head = None if whole else output_layer(model)
    if head is not None:
        with only_places(head, input_ids.shape, rows, columns):
            logits: Tensor = model(**inputs).logits
        if logits.shape[:-1] == (1, len(rows)):
            return logits[0]
        if logits.shape[:2] != input_ids.shape:  # the model reads something into the shape: leave it alone
            logits = model(**inputs).logits
    else:
        logits = model(**inputs).logits
    return logits[rows.to(logits.device), columns.to(logits.device)]


def output_layer(model: PeftModel) -> nn.Module | None:
    """The layer that makes logits; ``None`` for a model that has none of its own."""
    base: Any = model.get_base_model()
    found = base.get_output_embeddings() if hasattr(base, "get_output_embeddings") else None
    return found if isinstance(found, nn.Module) else None


@contextmanager
def only_places(head: nn.Module, shape: tuple[int, ...], rows: Tensor, columns: Tensor) -> Iterator[None]:
    """Let only the given places of a ``[sequences, length, width]`` tensor into ``head``, as ``[1, places, width]``."""

    def select(_: nn.Module, entering: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden, *others = entering
        if hidden.shape[:2] != shape:
            return entering
        return (hidden[rows.to(hidden.device), columns.to(hidden.device)][None], *others)

    handle = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()
