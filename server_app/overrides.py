"""``--set key=value``."""

import tomllib

from common.config import ConfigError, Scalar


def parse_override(text: str) -> tuple[str, Scalar]:
    """The key and the value of ``key=value``; the value in TOML syntax, or else as text. Raises ``ConfigError``."""
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f'--set "{text}": expected key=value, for example --set privacy.epsilon=4.0')
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()
