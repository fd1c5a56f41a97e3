"""Whether ``model.name`` can be a directory of a model, told from its files by name; imports nothing heavy."""

import json
from pathlib import Path

from common.config import ConfigError, names_a_file


def check_directory(name: str) -> None:
    """Refuse a path that is no directory, and a directory without a usable ``config.json``; raises ``ConfigError``.

    A hub id and the demo are let be.
    """
    folder = Path(name)
    if name == "demo" or not (names_a_file(name) or folder.exists()):
        return
    if folder.is_file():
        gguf = "; GGUF is not supported" if folder.suffix.lower() == ".gguf" else ""
        raise ConfigError(
            f'model.name = "{name}": this is a file{gguf}; give "demo", a hub id, or the directory that '
            "save_pretrained or hf download made"
        )
    if not folder.is_dir():
        raise ConfigError(f'model.name = "{name}": no such directory; give "demo", a hub id or a directory')
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f'model.name = "{name}": no config.json there; give a directory that save_pretrained or hf download made'
        )
    try:
        described = json.loads((folder / "config.json").read_bytes())
    except ValueError as error:
        raise ConfigError(f'model.name = "{name}": its config.json is not JSON ({error}); fetch it again') from None
    if not isinstance(described, dict):
        raise ConfigError(f'model.name = "{name}": its config.json holds no JSON object; fetch it again')
