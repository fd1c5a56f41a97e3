"""Which attention a batch takes on a CPU: plain matrix products where they are quicker and their scores fit.

In bfloat16 the fused kernel of a CPU is slow backward. Plain products keep every score for the backward pass, though,
and these grow with the square of the length, so long batches stay with the fused kernel, which keeps none.
"""

from typing import Any
from weakref import WeakSet

import torch
from peft import PeftModel
from torch import nn

PLAIN, FUSED = "eager", "sdpa"
SCORE_BYTES = 8
"""Of one score in a forward pass that is differentiated: in float32, and twice as the model gives it."""
MOST = 1 << 29
"""Most bytes of scores that all layers may keep."""


_chosen: WeakSet[nn.Module] = WeakSet()


def choose_attention(model: PeftModel, rows: int, length: int) -> None:
    """Set the attention for batches of ``rows`` sequences of ``length`` tokens; the results differ by rounding only.

    It stays set, since checkpointed layers run again in the backward pass. Nothing is changed on a GPU, in another
    dtype, and for a model that came with another attention.
    """
    base: Any = model.get_base_model()
    settings = getattr(base, "config", None)
    found = getattr(settings, "_attn_implementation", None)
    if base not in _chosen and (found != FUSED or not _is_slow_fused(base)):
        return
    wanted = PLAIN if score_bytes(settings, rows, length) <= MOST else FUSED
    if found != wanted:
        base.set_attn_implementation(wanted)
        _chosen.add(base)


def score_bytes(settings: Any, rows: int, length: int) -> int:  # noqa: ANN401 - a configuration of transformers
    """Bytes of the scores that plain attention keeps in all layers of a forward pass."""
    text = settings.get_text_config()
    return int(SCORE_BYTES * text.num_hidden_layers * text.num_attention_heads * rows * length**2)


def _is_slow_fused(base: Any) -> bool:  # noqa: ANN401 - a model of transformers
    return bool(base.device.type == "cpu" and base.dtype == torch.bfloat16)
