"""Reading a SuperNode's ``--node-config``: a reader returns one value, or says which key is wrong and what is right."""

import difflib
import math
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Final

NodeConfig = Mapping[str, object]
PLACE = frozenset({"partition-id", "num-partitions"})  # Flower's own, for simulated clients


class PolicyRefusal(PermissionError):
    """The site refuses; the text names the limit and what was asked, never what was spent, counted or found."""


def brings_own_data(node: NodeConfig) -> bool:
    """Whether the node names a data file of its own; a simulated client does not."""
    return bool(node.get("data-path"))


def check_keys(node: NodeConfig, *, own: bool = False) -> None:
    """Refuse an unknown key beside known ones: a limit that is misspelt is none, and its default may be laxer.

    A configuration with none of this app's keys is somebody else's, unless it is known to be this app's ``own``.
    """
    unknown = sorted(node.keys() - KEYS - PLACE)
    if not unknown or not (own or node.keys() & KEYS):
        return
    alike = difflib.get_close_matches(unknown[0], KEYS, 1)
    meant = f"did you mean {alike[0]}?" if alike else f"the keys are {', '.join(sorted(KEYS))};"
    raise PolicyRefusal(f"node config {unknown[0]}: unknown key; {meant} refusing until then")


def check_values(node: NodeConfig) -> None:
    """Refuse a value of a type that its reader would refuse, message after message; who uses it checks its bounds."""
    for key in sorted(node.keys() & KEYS):
        _READERS[key](node, key)


def may_look_at_model(node: NodeConfig, name: str) -> bool:
    """Whether a run's ``model.name`` may be looked for on this machine: with data of its own a site lists what may."""
    return not brings_own_data(node) or name in {entry.strip() for entry in str(node.get("models", "demo")).split(",")}


def check_data_name(node: NodeConfig, name: str) -> None:
    """Refuse a run's ``data.name`` that is a file of this machine: which one the server may see, only a site says.

    ``""`` is one, too: the folder that the process was started in.
    """
    if brings_own_data(node) or name == "demo":
        return
    from common.file_names import names_a_file  # noqa: PLC0415 - a SuperNode makes no folder for torch

    if not names_a_file(name) and not Path(name).exists():
        return
    raise PolicyRefusal(
        f'this site refuses: data.name = "{name}" would be a file of this machine, and its node config has no '
        'data-path; set that, or data.name = "demo" or a data set of the hub'
    )


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


_number, _flag, _text = partial(number, default=0.0), partial(flag, default=False), partial(text, default="")
_whole, _positive = partial(whole, default=0), partial(whole, default=1, least=1)
_READERS: Final[dict[str, Callable[[NodeConfig, str], object]]] = {
    **dict.fromkeys(("data-path", "chat-template", "ledger-path", "peers", "site-key"), absolute_path),
    **dict.fromkeys(("data-format", "prompt-column", "completion-column", "models"), _text),
    **dict.fromkeys(("append-eos", "allow-raw-gradients", "require-secure-aggregation"), _flag),
    **dict.fromkeys(("max-epsilon", "policy-delta", "min-noise-multiplier", "max-clip-norm"), _number),
    **dict.fromkeys(("answer-seconds", "worker-idle-seconds"), _number),
    **dict.fromkeys(("max-releases", "max-local-epochs", "lora-rank"), _whole),
    **dict.fromkeys(("max-batch-size", "max-local-steps", "min-peers"), _positive),
    "max-length": partial(whole, default=2, least=2),
}
KEYS = frozenset(_READERS)
