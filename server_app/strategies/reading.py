"""Which keys a run reads: what its strategy does, and what a key needs beside it."""

from collections.abc import Iterable

from common.config import ONLY_IF, RunConfig
from server_app.strategies import OPTIONAL_SECTIONS, STRATEGIES


def unread(config: RunConfig, keys: Iterable[str]) -> dict[str, str]:
    """Those of ``keys`` that a run of ``config`` does not read, each with the reason."""
    strategy, found = STRATEGIES.entry(config.strategy.name), {}
    for key in keys:
        section = key.partition(".")[0]
        if section in OPTIONAL_SECTIONS and section not in strategy.sections:
            found[key] = f"strategy {config.strategy.name} does not read {section}.*"
        elif key in strategy.ignores:
            found[key] = f"strategy {config.strategy.name} does not read it"
        elif key in ONLY_IF and not ONLY_IF[key][0](config):
            found[key] = f"it is read only with {ONLY_IF[key][1]}"
    return found
