"""``key=value``, wherever a person writes it: ``--set``, an entry of a comparison, a benchmark's grid."""

import tomllib
from collections.abc import Iterable

from common.config import ConfigError, Scalar
from common.config.toml_files import float_of


def parse_overrides(texts: Iterable[str] | None, where: str = "--set") -> dict[str, Scalar]:
    """The keys and values of many ``key=value``; of a key that is given twice the last value counts."""
    return dict(parse_override(text, where) for text in texts or ())


def parse_override(text: str, where: str = "--set") -> tuple[str, Scalar]:
    """The key and the value of ``key=value``. Raises ``ConfigError``, in which ``where`` says what was written."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f'{where} "{text}": expected key=value, for example codec.size=64')
    try:
        return key.strip(), parse_value(value)
    except ValueError as error:
        raise ConfigError(f'{where} "{text}": {error}') from None


def parse_value(text: str) -> Scalar:
    """A value in TOML syntax, or else the text itself.

    ``ValueError`` for a list, a table, a date, or a number that no float can hold.

    >>> parse_value("0.5"), parse_value("true"), parse_value("lora"), parse_value('"1"')
    (0.5, True, 'lora', '1')
    """
    try:
        found = tomllib.loads(f"value = {text}", parse_float=float_of)
    except tomllib.TOMLDecodeError:
        return text.strip()
    value = found["value"]
    if len(found) > 1:  # a text of several lines that happens to be TOML
        return text.strip()
    if not isinstance(value, bool | int | float | str):
        raise ValueError(f"the value is a {type(value).__name__}; give a number, true, false or a text (in quotes)")
    return value
