"""What Compose makes of a file before it acts: anchors merged, ``${NAME:-default}``, ``${NAME:?message}`` filled in."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

DOCKER = Path(__file__).parents[2] / "docker"
SIGNED = "compose.tls.yml compose.signed.yml"
FILES = ("compose.yml", "compose.tls.yml", SIGNED)
_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?:(?P<rule>:-|:\?)(?P<rest>[^}]*))?\}|\$\$|\$(?P<bare>\w*)")


class Missing(ValueError):
    """A variable that must be set is not; Compose would refuse the whole file."""


def load(name: str, variables: Mapping[str, str] | None = None) -> dict[str, Any]:
    """A compose file as Compose sees it with these variables alone set; of several files, each over those before."""
    loaded: dict[str, Any] = {}
    for part in name.split():
        loaded = _laid_over(
            loaded, filled_in(yaml.safe_load((DOCKER / part).read_text(encoding="utf-8")), variables or {})
        )
    return loaded


def _laid_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Mappings are merged, anything else is replaced: as Compose does it where a list repeats what it lies over."""
    both = {
        key: _laid_over(below[key], above[key]) for key in below.keys() & above.keys() if _are_maps(below, above, key)
    }
    return below | above | both


def _are_maps(below: dict[str, Any], above: dict[str, Any], key: str) -> bool:
    return isinstance(below[key], dict) and isinstance(above[key], dict)


def filled_in(value: Any, variables: Mapping[str, str]) -> Any:
    """Variables replaced in every text (keys of mappings excepted, as Compose does it)."""
    if isinstance(value, dict):
        return {key: filled_in(inner, variables) for key, inner in value.items()}
    if isinstance(value, list):
        return [filled_in(inner, variables) for inner in value]
    return _VARIABLE.sub(lambda found: _value(found, variables), value) if isinstance(value, str) else value


def _value(found: re.Match[str], variables: Mapping[str, str]) -> str:
    if found.group() == "$$":
        return "$"
    name, rule = found["name"] or found["bare"], found["rule"]
    value = variables.get(name, "")
    if rule is None and name not in variables:
        raise Missing(f"{name} has neither a value nor a default: Compose would warn and put nothing")
    if value or rule is None:
        return value
    if rule == ":?":
        raise Missing(f"{name}: {found['rest']}")
    return str(found["rest"])
