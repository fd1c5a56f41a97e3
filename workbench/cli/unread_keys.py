"""Keys that somebody has set and that no run would read: refused where they were typed, told where a file has them.

Which sections a strategy reads stands beside its name in ``server_app.strategies``, what a key needs beside it in
``common.config``.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from common.config import ConfigError, RunConfig, Scalar
from server_app.strategies.reading import unread

_Find = Callable[[RunConfig, Iterable[str]], dict[str, str]]
_COLUMNS = ("data.format", "data.prompt-column", "data.completion-column")


def unread_of_data(config: RunConfig, keys: Iterable[str]) -> dict[str, str]:
    """Those of ``keys`` that say how data are read that a simulation does not have, each with the reason.

    Sites that have data of their own do read them.
    """
    name, held_out = config.data.name, config.data.evaluation
    nothing = 'data.name is "demo", and data.evaluation names nothing' if name == "demo" and not held_out else ""
    whole = 'data.name is "demo"' if name == "demo" else f'data.name = "{name}" is a file, which is read whole'
    of_data = whole if name == "demo" or Path(name).is_file() else ""
    deciding = config.data.validation
    of_held_out = _of_held_out(held_out) if not deciding or Path(deciding).is_file() else ""
    either = of_data and of_held_out and f"{of_data}, and {of_held_out}"
    reasons = dict.fromkeys(_COLUMNS, nothing) | {
        "data.train-split": of_data,
        "data.evaluation-split": of_held_out,
        "data.subset": either,
        "data.revision": either,
    }
    return {key: reasons[key] for key in keys if reasons.get(key)}


def _of_held_out(named: str) -> str:
    if not named:
        return "data.evaluation names nothing"
    return f'data.evaluation = "{named}" is a file, which is read whole' if Path(named).is_file() else ""


def refuse_unread(config: RunConfig, typed: Mapping[str, Scalar], where: str = "--set", find: _Find = unread) -> None:
    """Raise ``ConfigError`` when a key that somebody has typed would have no effect; ``where``: how it was typed."""
    whys = find(config, typed)
    if whys:
        lines = [f"{where} {key}={typed[key]}: no effect, for {why}; leave it out" for key, why in whys.items()]
        raise ConfigError("\n".join(lines))


def unread_warning(config: RunConfig, preset: Mapping[str, Scalar]) -> str:
    """One line for the keys of a preset or file that differ from their default and have no effect, or ``""``."""
    plain = RunConfig().flat()
    changed = [key for key, value in preset.items() if value != plain.get(key)]
    names = list(unread(config, changed))
    return f"without effect under strategy {config.strategy.name}: {', '.join(names)}" if names else ""
