"""A saved adapter, found again: its run's configuration, its base model, its weights."""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import load_peft_weights, set_peft_model_state_dict
from torch import Tensor

from common.base_sample import BASE_FILE, is_same_base
from common.config import ConfigError, RunConfig, Scalar, flatten
from common.models import AdaptedModel, load_adapted_model

_PLAIN = {"peft_type": "LORA", "bias": "none"}  # what this app writes; anything else that changes the sum is refused
_UNSUPPORTED = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "modules_to_save", "layer_replication")


def adapter_config(folder: Path, changes: Mapping[str, Scalar]) -> RunConfig:
    """The configuration to evaluate ``folder`` under: its run's ``config.toml`` beside it, then ``changes``.

    The LoRA shape is the adapter's own. Without a ``config.toml`` the base model is the one that the adapter names.
    Raises ``ConfigError`` when there is no adapter, or not one that this app can put on a model.
    """
    settings = _read_settings(folder)
    saved = folder.parent / "config.toml"
    flat: dict[str, Any] = {"data.name": ""}  # without a run there are no rows of its own to score
    if saved.exists():
        flat = flatten(tomllib.loads(saved.read_text(encoding="utf-8-sig")))
    elif settings.get("base_model_name_or_path"):
        flat["model.name"] = settings["base_model_name_or_path"]
    elif "model.name" not in changes:
        raise ConfigError(f'--adapter "{folder}": neither it nor a config.toml beside it names a model; give --model')
    lora = {
        "lora.rank": settings["r"],
        "lora.alpha": float(settings["lora_alpha"]),
        "lora.dropout": 0.0,
        "lora.target-modules": ",".join(sorted(settings["target_modules"])),
        "lora.freeze-a": False,
    }
    return RunConfig.parse(flat | dict(changes) | lora)


def load_adapter(folder: Path, config: RunConfig) -> tuple[AdaptedModel, Tensor]:
    """The base model with the adapter's shape, and the adapter's values (shape ``[n]``).

    Its ``initial`` is the base model: every B is zero. Raises ``ConfigError`` when the weights do not fit the model.
    """
    adapted = load_adapted_model(config.model, config.lora, config.seed)
    _check_base(folder, config, adapted)
    adapted.load(adapted.initial)
    weights = load_peft_weights(str(folder), device="cpu")
    try:
        outcome: Any = set_peft_model_state_dict(adapted.model, weights)
    except RuntimeError as error:
        raise ConfigError(
            f'--adapter "{folder}" does not fit model.name = "{config.model.name}": '
            f"{' '.join(str(error).splitlines()[1:2]).strip()} {_trained_on(folder)}"
        ) from error
    absent = [key for key in outcome.missing_keys if "lora_" in key]
    if absent or outcome.unexpected_keys:
        raise ConfigError(
            f'--adapter "{folder}" does not fit model.name = "{config.model.name}": '
            f"{len(absent)} tensors are absent, {len(outcome.unexpected_keys)} have no place in it"
        )
    return adapted, adapted.adapter()


def _check_base(folder: Path, config: RunConfig, adapted: AdaptedModel) -> None:
    """Refuse another base model of the same shape; an adapter that this app did not write has no sample."""
    sample = folder / BASE_FILE
    if sample.exists() and not is_same_base(adapted.model, json.loads(sample.read_text())["input_embedding"]):
        raise ConfigError(
            f'--adapter "{folder}": model.name = "{config.model.name}" is another base model than the one that it was '
            f"trained on. {_trained_on(folder)}"
        )


def _trained_on(folder: Path) -> str:
    return f'Its base model was "{_read_settings(folder).get("base_model_name_or_path")}"; give that with --model'


def _read_settings(folder: Path) -> dict[str, Any]:
    path = folder / "adapter_config.json"
    if not path.exists():
        raise ConfigError(f'--adapter "{folder}": no adapter_config.json there; give the adapter/ of a results folder')
    settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    odd = [f"{key} = {settings.get(key)!r}" for key, plain in _PLAIN.items() if settings.get(key, plain) != plain]
    odd += [f"{key} = {settings[key]!r}" for key in _UNSUPPORTED if settings.get(key)]
    if not isinstance(settings.get("target_modules"), list):
        odd.append(f"target_modules = {settings.get('target_modules')!r}")
    if odd:
        raise ConfigError(f'--adapter "{folder}": only plain LoRA on named modules is supported, not {", ".join(odd)}')
    return settings
