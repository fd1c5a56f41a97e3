"""Which adapter is used, on which base model, and how texts are drawn; imports nothing heavy."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from common.config import ConfigError, RunConfig, Scalar
from server_app.results.output_place import write_fault
from workbench.evaluation.adapter_settings import adapter_config
from workbench.planning.model_directory import check_directory

_READ = ("model.", "data.chat-template", "data.format")
_COLDEST, _HOTTEST = 0.001, 1000.0  # logits divided by less are no float32 numbers, by more all alike
_HUB_ID = re.compile(r"(\w[\w.-]*/)?\w[\w.-]*", re.ASCII)


@dataclass(frozen=True)
class Sampling:
    """How a text is written: up to ``new_tokens`` tokens, the likeliest each time at ``temperature`` 0, else drawn."""

    new_tokens: int
    temperature: float = 0.0
    seed: int = 1

    def __post_init__(self) -> None:
        if self.temperature and not _COLDEST <= self.temperature <= _HOTTEST:
            raise ConfigError(
                f"--temperature {self.temperature:g}: give 0 for the likeliest token each time, or a number from "
                f"{_COLDEST:g} to {_HOTTEST:g}"
            )


@dataclass(frozen=True)
class Asked:
    """The adapter's configuration, and whether a run beside it says how prompts were written."""

    adapter: Path
    config: RunConfig
    from_run: bool


def check_prompts(path: Path) -> None:
    """Refuse what is no file (``ConfigError``); what stands in it is read later."""
    if not path.exists():
        raise ConfigError(f'--prompts "{path}": no such file; give a text a line, or JSONL, CSV or Parquet')
    if path.is_dir():
        raise ConfigError(f'--prompts "{path}": this is a directory; name a file')


def check_hub_id(option: str, name: str) -> None:
    """Refuse what cannot be the name of a repository of the hub (``ConfigError``)."""
    if name and not _HUB_ID.fullmatch(name):
        raise ConfigError(f'{option} "{name}": give a hub id, org/name, of letters, digits, "-", "_" and "."')


def check_folder(out: Path) -> None:
    """Refuse a place where something lies already, or that cannot be written into (``ConfigError``)."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out {out}: there is something already; give a new folder")
    why = write_fault(out.absolute())
    if why:
        raise ConfigError(f"--out {out}: {why}; give a folder that you may write into")


def asked(adapter: Path, changes: Mapping[str, Scalar]) -> Asked:
    """The configuration under which ``adapter`` is used; nothing is loaded. Raises ``ConfigError``."""
    for key in changes:
        if key in RunConfig().flat() and not key.startswith(_READ):
            raise ConfigError(f"--set {key}: no effect, for only {', '.join(_READ)} are read here; leave it out")
    config = adapter_config(adapter, changes)
    check_directory(config.model.name)
    told = (adapter.parent / "config.toml").exists() or any(key.startswith("data.") for key in changes)
    return Asked(adapter, config, told)
