"""The app's version."""

import importlib.metadata
import tomllib
from functools import lru_cache
from pathlib import Path


@lru_cache(maxsize=1)
def app_version() -> str:
    """The version of the source tree that runs, or of the installed package."""
    project = Path(__file__).resolve().parents[1] / "pyproject.toml"
    if project.exists():
        return str(tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"])
    return importlib.metadata.version("dr-encoder")
