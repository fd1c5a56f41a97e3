"""TOML as people write it: numbers that a float holds, files that may be unreadable."""

import tomllib
from pathlib import Path
from typing import Any

from common.config.run import ConfigError


def read_tables(path: Path) -> dict[str, Any]:
    """A file of TOML as it stands, with or without a byte-order mark. Raises ``ConfigError`` where it is none."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"), parse_float=float_of)
    except (OSError, ValueError, RecursionError) as error:  # not TOML, not UTF-8, nested deeper than Python's stack
        raise ConfigError(f"{path} is not a readable TOML file: {error}") from None


def float_of(text: str) -> float:
    """The number of a decimal literal, for TOML's reader.

    ``ValueError`` where a float cannot hold it: 1e-400 would be 0 and 1e400 inf, which often have a meaning of their
    own ("as much as can be", "none").
    """
    value = float(text)
    mantissa = text.lower().partition("e")[0]
    if (value == 0 and mantissa.strip("+-0._")) or (abs(value) == float("inf") and "inf" not in text):
        raise ValueError(f"{text} is beyond what a float can hold; the smallest are about 1e-308, the largest 1e308")
    return value
