"""Reading a SuperNode's ``--node-config``: a reader returns one value, or says which key is wrong and what is right."""

import math
from collections.abc import Collection, Mapping
from pathlib import Path

NodeConfig = Mapping[str, object]


class PolicyRefusal(PermissionError):
    """The site refuses; the text names the limit and what was asked, never what was spent, counted or found."""


def brings_own_data(node: NodeConfig) -> bool:
    """Whether the node names a data file of its own; a simulated client does not."""
    return bool(node.get("data-path"))


def number(node: NodeConfig, key: str, default: float) -> float:
    """A number of at least 0."""
    value = node.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value) or value < 0:
        raise PolicyRefusal(f"node config {key} = {value!r}: write a number of at least 0; refusing until then")
    return float(value)


def whole(node: NodeConfig, key: str, default: int, least: int = 0) -> int:
    """A whole number of at least ``least``."""
    value = number(node, key, default)
    if not value.is_integer():  # half a release would become 0, which is no limit
        raise PolicyRefusal(f"node config {key} = {value!r}: write a whole number; refusing until then")
    if value < least:
        raise PolicyRefusal(f"node config {key} = {int(value)}: write at least {least}; refusing until then")
    return int(value)


def flag(node: NodeConfig, key: str, *, default: bool) -> bool:
    """True or false."""
    value = node.get(key, default)
    if not isinstance(value, bool):
        raise PolicyRefusal(f"node config {key} = {value!r}: write true or false without quotes; refusing until then")
    return value


def text(node: NodeConfig, key: str, default: str, allowed: Collection[str] = ()) -> str:
    """A text that is not empty; one of ``allowed`` where these are given."""
    value = node.get(key, default)
    if not isinstance(value, str) or not value or (allowed and value not in allowed):
        right = f"one of {', '.join(sorted(allowed))}" if allowed else "a text in quotes"
        raise PolicyRefusal(f"node config {key} = {value!r}: write {right}; refusing until then")
    return value


def absolute_path(node: NodeConfig, key: str) -> str:
    """An absolute file name, or ``""`` where the key is not set. A refusal does not repeat it: paths stay here."""
    value = node.get(key, "")
    if not isinstance(value, str) or (value and not Path(value).is_absolute()):
        raise PolicyRefusal(f"node config {key}: write an absolute file name in quotes; refusing until then")
    return value
