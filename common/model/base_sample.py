"""A few values of a base model, kept beside its adapter: enough to tell another base model of the same shape.

An adapter fits every model of its shape, and on another one than it was trained on it only does harm.
"""

from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

BASE_FILE = "base_sample.json"
_COUNT = 512
_TOLERANCE = 0.005  # of the norm; storing in bfloat16 moves values by .1 %


def base_sample(model: PeftModel) -> list[float]:
    """Evenly spaced values of the input embedding, which no quantization touches."""
    base: Any = model.get_base_model()
    weight: Tensor = base.get_input_embeddings().weight.detach().flatten()
    places = torch.linspace(0, len(weight) - 1, min(_COUNT, len(weight)), dtype=torch.float64).long()
    values: list[float] = weight[places.to(weight.device)].float().cpu().tolist()
    return values


def is_same_base(model: PeftModel, sample: list[float]) -> bool:
    """Whether a sample is of this base model, in whatever dtype."""
    own, given = torch.tensor(base_sample(model)), torch.tensor(sample)
    return own.shape == given.shape and bool((own - given).norm() <= _TOLERANCE * given.norm())
