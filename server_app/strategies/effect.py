"""Whether steps of a codec can change the model at all: a LoRA factor acts by its product with the other one."""

import torch
from torch import Tensor

from common.adapter import Layout
from common.codecs.base import Codec

_A, _B = "_A.", "_B."


def without_effect(codec: Codec, layout: Layout, initial: Tensor) -> str:
    """What to say of a codec that decodes to factors only whose others are zero at the start and stay so; else ``""``.

    ``initial``: the fresh adapter, shape ``[n]``. The statistics of stage 1 can lead there: where its steps have moved
    B, gradients of A are the larger ones, and a code that is all of A is of gradients that are zero in every round.
    """
    code = torch.randn(codec.size, generator=torch.Generator().manual_seed(0))
    decoded, start = layout.unflatten(codec.decode(code).float()), layout.unflatten(initial.cpu())
    moved = {name for name, values in decoded.items() if values.any()}
    others = {_other(name) for name in moved}
    if any(name in moved or name not in start or start[name].any() for name in others):  # outside: a frozen A
        return ""
    return (
        "THE CODE CHANGES NO MODEL: all its values are of LoRA factors whose others are zero, and stay so. The rounds "
        "would spend their budget for nothing: take another codec.form"
    )


def _other(name: str) -> str:
    """The factor that one is multiplied by."""
    return name.replace(_A, _B) if _A in name else name.replace(_B, _A)
