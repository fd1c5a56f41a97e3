"""Keys that somebody has set and that no run would read: refused where they were typed, told where a file has them.

Which sections a strategy reads stands beside its name in ``server_app.strategies``, what a key needs beside it in
``common.config``.
"""

from collections.abc import Mapping

from common.config import ConfigError, RunConfig, Scalar
from server_app.strategies.reading import unread


def refuse_unread(config: RunConfig, typed: Mapping[str, Scalar], where: str = "--set") -> None:
    """Raise ``ConfigError`` when a key that somebody has typed would have no effect; ``where``: how it was typed."""
    whys = unread(config, typed)
    if whys:
        lines = [f"{where} {key}={typed[key]}: no effect, for {why}; leave it out" for key, why in whys.items()]
        raise ConfigError("\n".join(lines))


def unread_warning(config: RunConfig, preset: Mapping[str, Scalar]) -> str:
    """One line for the keys of a preset or file that differ from their default and have no effect, or ``""``."""
    plain = RunConfig().flat()
    changed = [key for key, value in preset.items() if value != plain.get(key)]
    names = list(unread(config, changed))
    return f"without effect under strategy {config.strategy.name}: {', '.join(names)}" if names else ""
