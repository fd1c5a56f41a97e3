"""A saved adapter's weights on its base model."""

from pathlib import Path
from typing import Any

from peft import load_peft_weights, set_peft_model_state_dict
from torch import Tensor

from common.config import ConfigError, RunConfig
from common.models import AdaptedModel, load_adapted_model


def load_adapter(folder: Path, config: RunConfig) -> tuple[AdaptedModel, Tensor]:
    """The base model with the adapter's shape, and the adapter's values (shape ``[n]``).

    Its ``initial`` is the base model: every B is zero. Raises ``ConfigError`` when the weights do not fit the model.
    """
    adapted = load_adapted_model(config.model, config.lora, config.seed)
    adapted.load(adapted.initial)
    weights = load_peft_weights(str(folder), device="cpu")
    try:
        outcome: Any = set_peft_model_state_dict(adapted.model, weights)
    except RuntimeError as error:
        raise ConfigError(
            f'--adapter "{folder}" does not fit model.name = "{config.model.name}": {_misfit(error)}'
        ) from None
    absent = [key for key in outcome.missing_keys if "lora_" in key]
    if absent or outcome.unexpected_keys:
        raise ConfigError(
            f'--adapter "{folder}" does not fit model.name = "{config.model.name}": '
            f"{len(absent)} tensors are absent, {len(outcome.unexpected_keys)} have no place in it"
        )
    return adapted, adapted.adapter()


def _misfit(error: RuntimeError) -> str:
    """What torch says of many tensors, as their number and the first of them."""
    lines = [line.strip() for line in str(error).splitlines() if line.startswith(("\t", " "))]
    return f"{len(lines)} tensors have another shape: {lines[0]}" if lines else str(error)
