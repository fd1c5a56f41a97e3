"""A saved adapter's own description and its run's configuration, read without loading anything."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.config import ConfigError, RunConfig, Scalar, known_keys
from server_app.results.json_lines import load_json
from server_app.results.strange_files import strange_file
from workbench.simulation.launcher import read_toml

_PLAIN = {"peft_type": "LORA", "bias": "none"}  # what this app writes; anything else that changes the sum is refused
_UNSUPPORTED = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "modules_to_save", "layer_replication")
_NEEDED = ("r", "lora_alpha")
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


def adapter_config(folder: Path, changes: Mapping[str, Scalar]) -> RunConfig:
    """The configuration to evaluate ``folder`` under: its run's ``config.toml`` beside it, then ``changes``.

    The LoRA shape is the adapter's own. Without a ``config.toml`` the base model is the one that the adapter names.
    Raises ``ConfigError`` when there is no adapter, or not one that this app can put on a model.
    """
    settings = read_settings(folder)
    saved = folder.parent / "config.toml"
    flat: dict[str, Any] = {"data.name": "none"}  # without a run there are no rows of its own to score
    if saved.exists():
        if not saved.is_file():
            raise ConfigError(f'--adapter "{folder}": {saved} is no file')
        flat = known_keys(read_toml(saved, f'--adapter "{folder}"'))  # of an earlier version: as good as it was
    elif settings.get("base_model_name_or_path"):
        flat["model.name"] = settings["base_model_name_or_path"]
    elif "model.name" not in changes:
        raise ConfigError(f'--adapter "{folder}": neither it nor a config.toml beside it names a model; give --model')
    lora = {
        "lora.rank": settings["r"],
        "lora.alpha": float(settings["lora_alpha"]),
        "lora.target-modules": ",".join(sorted(settings["target_modules"])),
        "lora.freeze-a": False,
    }
    return RunConfig.parse(flat | dict(changes) | lora)


def read_settings(folder: Path) -> dict[str, Any]:
    """PEFT's description of the adapter in ``folder``; ``ConfigError`` where there is none that this app can use."""
    path = folder / "adapter_config.json"
    if not path.is_file():
        raise ConfigError(f'--adapter "{folder}": no adapter_config.json there; give the adapter/ of a results folder')
    _check_files(folder)
    try:
        settings: dict[str, Any] = load_json(path.read_bytes())
        odd = [f"{key} is missing" for key in _NEEDED if not settings.get(key)]
    except (ValueError, AttributeError) as error:
        raise ConfigError(f'--adapter "{folder}": its adapter_config.json is not what PEFT writes ({error})') from None
    odd += [f"{key} = {settings[key]!r}" for key in _NEEDED if settings.get(key) and not _is_number(settings[key])]
    odd += [f"{key} = {settings.get(key)!r}" for key, plain in _PLAIN.items() if settings.get(key, plain) != plain]
    odd += [f"{key} = {settings[key]!r}" for key in _UNSUPPORTED if settings.get(key)]
    targets = settings.get("target_modules")
    if not (isinstance(targets, list) and all(isinstance(name, str) for name in targets)):
        odd.append(f"target_modules = {settings.get('target_modules')!r}")
    if odd:
        raise ConfigError(f'--adapter "{folder}": only plain LoRA on named modules is supported, not {", ".join(odd)}')
    if not any((folder / name).is_file() for name in _WEIGHTS):
        raise ConfigError(f'--adapter "{folder}": no {_WEIGHTS[0]} there; the adapter was not saved to its end')
    return settings


def _is_number(value: object) -> bool:
    """Whether a JSON value is a number that a float can hold."""
    return isinstance(value, int | float) and abs(value) <= sys.float_info.max


def _check_files(folder: Path) -> None:
    """Refuse links out of the folder: one from elsewhere may point to any file, and what is exported is for others.

    Those of the hub's cache lead to its own blobs. A named pipe is refused, too: reading it may never end.
    """
    blobs = [up.parent / "blobs" for up in folder.resolve().parents if up.name == "snapshots"]
    if why := strange_file(folder, blobs):
        raise ConfigError(f'--adapter "{folder}": {why}')
