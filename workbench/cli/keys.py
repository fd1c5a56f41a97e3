"""The command ``dr-encoder keys``."""

import json
import textwrap
from dataclasses import dataclass
from typing import Annotated

import typer

from common.config import ONLY_IF, ConfigError, Scalar, allowed_values, key_table, nearest_keys, nearest_table
from server_app.strategies import STRATEGIES
from workbench.saying import say
from workbench.simulation.launcher import preset_names

_HEADER = """# Configuration

Written by `dr-encoder keys --markdown`. A run takes one flat set of keys: the defaults below, then a preset or TOML
file, then `--set key=value`. With plain `flwr run` the same keys go to `-c`. TOML has no null: `0` or `""` means "not
given" where the meaning says so. A key that a run would not read is refused in `--set`, and told of in a preset.
"""
_WIDTH = 100


@dataclass(frozen=True)
class _Key:
    """A row of the table."""

    name: str
    default: str
    allowed: str
    meaning: str

    @classmethod
    def of(cls, name: str, default: Scalar, meaning: str) -> "_Key":
        allowed = ", ".join(sorted(STRATEGIES)) if name == "strategy.name" else allowed_values(name)
        needed = f" (read only with {ONLY_IF[name][1]})" if name in ONLY_IF else ""
        return cls(name, json.dumps(default), allowed, meaning + needed)


def keys(
    wanted: Annotated[str, typer.Argument(metavar="[FILTER]", help="part of a key or of its meaning")] = "",
    as_markdown: Annotated[bool, typer.Option("--markdown", help="print docs/configuration.md")] = False,
) -> None:
    """Print the keys of the run configuration with default, allowed values and meaning, and the presets."""
    if as_markdown and wanted:
        raise ConfigError(f'--markdown prints the whole page: leave out "{wanted}", or --markdown')
    if as_markdown:
        say(keys_markdown(), nl=False)
        return
    found = [key for key in _keys() if wanted.lower() in f"{key.name} {key.meaning}".lower()]
    if not found:
        alike = nearest_table(wanted) or nearest_keys(wanted)
        raise ConfigError(f'no key has "{wanted}" in its name or meaning; {alike}`dr-encoder keys` prints all of them')
    for key in found:
        say(f"{key.name} = {key.default}    [{key.allowed}]")
        say(textwrap.fill(key.meaning, _WIDTH, initial_indent="    ", subsequent_indent="    "))
    if not wanted:
        say(f"\npresets (run --preset NAME): {', '.join(preset_names())}")


def keys_markdown() -> str:
    """The page docs/configuration.md."""
    rows = [f"| `{key.name}` | `{key.default}` | {key.allowed} | {key.meaning} |" for key in _keys()]
    presets = ", ".join(f"`{name}`" for name in preset_names())
    head = ["| key | default | allowed | meaning |", "|---|---|---|---|"]
    return "\n".join([_HEADER, f"Presets: {presets}.", "", *head, *rows, ""])


def _keys() -> list[_Key]:
    return [_Key.of(*row) for row in key_table()]
