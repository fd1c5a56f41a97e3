"""How a run is repeated: its settings as they may be published, and the command."""

import json
import shlex
import tomllib
from importlib.resources import files
from typing import Any

from common.config import RunConfig, Scalar, flatten
from server_app.results.published_names import public_name
from server_app.strategies.reading import unread

_NAMES = ("model.name", "data.name", "data.evaluation", "data.validation")
_OF_A_PLACE = ("resume", "output.dir", "output.name")


def public_settings(config: RunConfig, clients: int) -> dict[str, Scalar]:
    """Every key of the run but for where its results went; of what lies on this machine the last name only."""
    flat = config.flat() | {"federation.num-clients": clients}
    named = {key: public_name(str(flat[key])) if flat[key] else flat[key] for key in _NAMES}
    return {key: value for key, value in (flat | named).items() if key not in _OF_A_PLACE}


def changed_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Those that are not the defaults."""
    defaults = RunConfig().flat()
    return {key: value for key, value in settings.items() if defaults[key] != value}


def command(settings: dict[str, Any]) -> str:
    """``dr-encoder run`` with the preset that needs the fewest changes (of equals the first by name), and these."""
    config = RunConfig.parse(settings)
    changes = {name: _missing(settings, keys) for name, keys in sorted(_presets().items())}
    for missing in changes.values():
        for key in unread(config, missing):
            del missing[key]
    name = min(changes, key=lambda preset: len(changes[preset]))
    words = [f"--set {shlex.quote(f'{key}={_toml(value)}')}" for key, value in changes[name].items()]
    return " \\\n  ".join([f"dr-encoder run --preset {name}", *words])


def _presets() -> dict[str, dict[str, Any]]:
    found = files("common").joinpath("presets").iterdir()
    return {
        preset.name.removesuffix(".toml"): flatten(tomllib.loads(preset.read_text(encoding="utf-8")))
        for preset in found
        if preset.name.endswith(".toml")
    }


def _missing(settings: dict[str, Any], preset: dict[str, Any]) -> dict[str, Any]:
    start = RunConfig().flat() | RunConfig.parse(preset).flat()
    return {key: value for key, value in settings.items() if start[key] != value}


def _toml(value: Scalar) -> str:
    """A value as ``--set`` reads it back: a text is quoted where it would be taken for something else."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and _is_toml(value):
        return json.dumps(value)
    return str(value)


def _is_toml(text: str) -> bool:
    try:
        return bool(tomllib.loads(f"value = {text}"))
    except tomllib.TOMLDecodeError:
        return False
