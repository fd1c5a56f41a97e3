"""A saved adapter's weights on its base model."""

from pathlib import Path
from pickle import PickleError
from typing import Any

from peft import load_peft_weights, set_peft_model_state_dict
from safetensors import SafetensorError
from torch import Tensor

from common.config import ConfigError, RunConfig
from common.counts import count
from common.model.adapted import AdaptedModel, load_adapted_model
from common.model.base_sample import BASE_FILE, is_same_base
from server_app.results.json_lines import load_json
from workbench.evaluation.adapter_settings import read_settings

_UNREADABLE = (SafetensorError, PickleError, RuntimeError, ValueError, LookupError, TypeError, AttributeError, EOFError)
"""What reading weights that are damaged, or none, raises."""


def load_adapter(folder: Path, config: RunConfig) -> tuple[AdaptedModel, Tensor]:
    """The base model with the adapter's shape, and the adapter's values (shape ``[n]``).

    Its ``initial`` is the base model: every B is zero. Raises ``ConfigError`` when the weights do not fit the model.
    """
    adapted = load_adapted_model(config.model, config.lora, config.seed)
    return adapted, put_on(folder, config, adapted)


def put_on(folder: Path, config: RunConfig, adapted: AdaptedModel) -> Tensor:
    """Load the weights in ``folder`` onto a model, and return them (shape ``[n]``); ``ConfigError`` as above."""
    _check_base(folder, config, adapted)
    adapted.load(adapted.initial)
    weights = _read_weights(folder)
    try:
        outcome: Any = set_peft_model_state_dict(adapted.model, weights)
    except RuntimeError as error:
        raise ConfigError(
            f'--adapter "{folder}" does not fit model.name = "{config.model.name}": {_misfit(error)}. '
            f"{_trained_on(folder)}"
        ) from None
    absent = [key for key in outcome.missing_keys if "lora_" in key]
    if absent or outcome.unexpected_keys:
        raise ConfigError(
            f'--adapter "{folder}" does not fit model.name = "{config.model.name}": '
            f"it lacks {count(len(absent), 'tensor')} and has {len(outcome.unexpected_keys)} too many"
        )
    return adapted.adapter()


def _read_weights(folder: Path) -> dict[str, Tensor]:
    try:
        weights: Any = load_peft_weights(str(folder), device="cpu")
        if all(isinstance(value, Tensor) for value in weights.values()):
            return dict(weights)
    except _UNREADABLE:
        pass
    raise ConfigError(f'--adapter "{folder}": its weights are damaged, or no tensors; fetch it again')


def _check_base(folder: Path, config: RunConfig, adapted: AdaptedModel) -> None:
    """Refuse another base model of the same shape; an adapter that this app did not write has no sample."""
    if (folder / BASE_FILE).exists() and not is_same_base(adapted.model, _read_sample(folder)):
        raise ConfigError(
            f'--adapter "{folder}": model.name = "{config.model.name}" is another base model than the one that it was '
            f"trained on. {_trained_on(folder)}"
        )


def _read_sample(folder: Path) -> list[float]:
    try:
        return [float(value) for value in load_json((folder / BASE_FILE).read_bytes())["input_embedding"]]
    except (ValueError, LookupError, TypeError, OverflowError):
        raise ConfigError(f'--adapter "{folder}": its {BASE_FILE} is damaged; fetch it again') from None


def _trained_on(folder: Path) -> str:
    return f'Its base model was "{read_settings(folder).get("base_model_name_or_path")}"; give that with --model'


def _misfit(error: RuntimeError) -> str:
    """What torch says of many tensors, as their number and the first of them."""
    lines = [line.strip() for line in str(error).splitlines() if line.startswith(("\t", " "))]
    return f"another shape of {count(len(lines), 'tensor')}: {lines[0]}" if lines else str(error)
