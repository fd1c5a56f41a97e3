"""Whether ``model.name`` means a GGUF file, told by names of files; imports nothing heavy."""

from pathlib import Path

from common.config import ConfigError

SUFFIX = ".gguf"
MAGIC = b"GGUF"


def gguf_file(name: str) -> Path | None:
    """The GGUF file that ``model.name`` means: the file itself, or the only one in a folder without ``config.json``.

    ``None`` for anything else. Raises ``ConfigError`` for a folder with several.
    """
    path = Path(name)
    if path.is_file():
        return path if path.suffix.lower() == SUFFIX else None
    if not path.is_dir() or (path / "config.json").is_file():
        return None
    found = sorted(file for file in path.iterdir() if file.suffix.lower() == SUFFIX and file.is_file())
    if len(found) > 1:
        raise ConfigError(
            f'model.name = "{name}": {len(found)} GGUF files are there ({found[0].name}, {found[1].name}, ...); '
            "name one"
        )
    return found[0] if found else None
