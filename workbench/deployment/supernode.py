"""Flower's SuperNode, but that it reads its node configuration whole, or does not start.

Of ``--node-config`` Flower 1.41 takes what looks like ``key=value`` and passes over the rest without a word: with a
blank beside its ``=`` a limit was none. ``python -P -m workbench.deployment.supernode`` takes the arguments of
``flower-supernode``.
"""

import re
import sys
from typing import Any

from click import ClickException
from flwr.common import config

from client_app.node_config import PolicyRefusal, check_keys, check_values

_PAIR = re.compile(r"\S+?=(?:'[^']*'|\"[^\"]*\"|\S+)")  # what Flower looks for
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
_RIGHT = "write key=value, no blank beside the =, text in double quotes, blanks between pairs"


def read_node_config(text: str) -> dict[str, Any]:
    """What a SuperNode makes of ``--node-config``: pairs, or the name of a TOML file.

    Raises ``ValueError`` for what it would pass over or cannot read, ``PolicyRefusal`` for a key that is none or a
    value that its reader would refuse.
    """
    is_file = text.endswith(".toml")
    if not is_file:
        _check_pairs(text)
    try:
        found = config.parse_config_args([text] if text else [])
    except (ClickException, OSError, ValueError) as error:
        why = f": {error}" if is_file else ""
        raise ValueError(f"node config: {text!r} cannot be read{why}; {_RIGHT}") from None
    check_keys(found, own=True)
    check_values(found)
    return found


def _check_pairs(text: str) -> None:
    bare = _QUOTED.sub("", text)
    if "#" in bare:  # what is behind it is a remark to a reader of TOML
        raise ValueError(f"node config: {bare[bare.index('#') :].split()[0]!r} would not be read; {_RIGHT}")
    if rest := _PAIR.sub(" ", text).split():
        raise ValueError(f"node config: {rest[0]!r} belongs to no key=value; {_RIGHT}")


def main() -> None:
    """Run Flower's SuperNode with this reader."""
    from flwr.supernode.cli import flower_supernode  # noqa: PLC0415 - seconds, which check-site need not wait for

    module = sys.modules[flower_supernode.__module__]
    module.parse_config_args = _read  # type: ignore[attr-defined]  # there is no other way in
    flower_supernode()


def _read(given: list[str] | None) -> dict[str, Any]:
    try:
        return read_node_config(given[0] if given else "")
    except (PolicyRefusal, ValueError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
