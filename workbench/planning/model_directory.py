"""Whether ``model.name`` can be a directory or GGUF file of a model, told by names of files; imports nothing heavy."""

from pathlib import Path

from common.config import ConfigError
from common.file_names import names_a_file
from common.model.gguf_file import MAGIC, gguf_file
from server_app.results.json_lines import load_json


def check_directory(name: str) -> None:
    """Refuse a path that is no directory, and a directory without a usable ``config.json``; raises ``ConfigError``.

    A hub id and the demo are let be, and so are a GGUF file and a directory that holds one.
    """
    folder = Path(name)
    if name == "demo" or not (names_a_file(name) or folder.exists()):
        return
    packed = gguf_file(name)
    if packed is not None:
        with packed.open("rb") as handle:
            if handle.read(len(MAGIC)) != MAGIC:
                raise ConfigError(f'model.name = "{name}": {packed.name} is no GGUF file; fetch it again')
        return
    if folder.is_file():
        raise ConfigError(
            f'model.name = "{name}": this file is no .gguf; give "demo", a hub id, a .gguf file, or the directory that '
            "save_pretrained or hf download made"
        )
    if not folder.is_dir():
        raise ConfigError(
            f'model.name = "{name}": no such directory or file; give "demo", a hub id, a directory or a .gguf file'
        )
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f'model.name = "{name}": no config.json there; give a directory that save_pretrained or hf download made'
        )
    try:
        described = load_json((folder / "config.json").read_bytes())
    except ValueError as error:
        raise ConfigError(f'model.name = "{name}": its config.json is not JSON ({error}); fetch it again') from None
    if not isinstance(described, dict):
        raise ConfigError(f'model.name = "{name}": its config.json holds no JSON object; fetch it again')
