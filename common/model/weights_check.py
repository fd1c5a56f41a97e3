"""Do a folder's weights fit its configuration? What is missing would be drawn at random, and nobody would be told."""

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as hf_logging

from common.config import ConfigError

LOADING_FAULTS = (OSError, ValueError, RuntimeError, EOFError, KeyError, StrictDataclassError, ImportError)
"""What transformers raises for files that it cannot use; the last for quantized ones whose package is missing."""
_SHOWN = 2  # names in a message
_ADAPTER = "adapter_config.json"
_LOUD = ("transformers", "huggingface_hub")


def load_with_info(name: str, **options: Any) -> tuple[PreTrainedModel, Mapping[str, Any]]:  # noqa: ANN401
    """``from_pretrained`` with what ``check_loaded`` reads, instead of errors and drawn weights.

    Raises ``ConfigError`` for a folder with an adapter in it: transformers would load the model that this one names.
    """
    if (Path(name) / _ADAPTER).is_file():
        raise _adapted(name)
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        name, output_loading_info=True, ignore_mismatched_sizes=True, **options
    )
    model, info = loaded
    if getattr(model, "_hf_peft_config_loaded", False):  # one of the hub
        raise _adapted(name)
    return model, info


def _adapted(name: str) -> ConfigError:
    return ConfigError(
        f'model.name = "{name}": holds an adapter of PEFT ({_ADAPTER}), to which no second one is added; name its base '
        "model, or a folder with the adapter merged into it (dr-encoder export)"
    )


def check_local_weights(folder: str) -> None:
    """Refuse a directory whose weight files are absent, cut off or do not fit, without reading the weights.

    Raises ``ConfigError``.
    """
    try:
        with quiet_loading():
            _, info = load_with_info(folder, device_map="meta")
    except SafetensorError as error:
        raise ConfigError(damaged(folder, error)) from error
    except LOADING_FAULTS as error:
        raise ConfigError(f'model.name = "{folder}": its weights cannot be read: {first_line(error)}') from error
    check_loaded(folder, info)


def check_loaded(name: str, info: Mapping[str, Any]) -> None:
    """Refuse a model by transformers' loading info: missing weights, other shapes, layers that have no place.

    Other weights without a place (a vision tower, a classifier) change nothing. Raises ``ConfigError``.
    """
    missing = sorted(info["missing_keys"])
    if missing:
        raise ConfigError(
            f'model.name = "{name}": {len(missing)} of its tensors are missing from the weight files and would be '
            f"random: {_some(missing)}; fetch or save the model again"
        )
    shapes = sorted(info["mismatched_keys"])
    if shapes:
        key, found, wanted = shapes[0]
        raise ConfigError(
            f'model.name = "{name}": {len(shapes)} of its tensors have another shape than config.json says: {key} is '
            f"{tuple(found)}, not {tuple(wanted)}; config.json and weights must be of one model"
        )
    surplus = sorted(key for key in info["unexpected_keys"] if re.search(r"\.layers\.\d+\.|\.h\.\d+\.", key))
    if surplus:
        raise ConfigError(
            f'model.name = "{name}": its weight files hold layers that config.json does not name: {_some(surplus)}; '
            "config.json and weights must be of one model"
        )


def damaged(name: str, error: BaseException) -> str:
    """What to say of a .safetensors file that cannot be read."""
    return (
        f'model.name = "{name}": a .safetensors file is damaged ({error}): a download that was cut off, or '
        "the pointer that git leaves without git-lfs; fetch the weights again (hf download)"
    )


def first_line(error: BaseException) -> str:
    """An error in one line: some of transformers' name every class that it knows."""
    text = (str(error) or type(error).__name__).splitlines()[0]
    if isinstance(error, StrictDataclassError):  # a heading, and below it what is wrong with which field
        text = " ".join(str(error).split())
    if isinstance(error, KeyError):
        text = f"it lacks {text}"
    return text if len(text) <= 200 else f"{text[:200]} ..."


@contextmanager
def quiet_loading() -> Iterator[None]:
    """No table of keys, no word of every attempt at the hub and no progress bar for a while."""
    levels = {logger: logger.level for logger in map(logging.getLogger, _LOUD)}
    bars = hf_logging.is_progress_bar_enabled()
    for logger in levels:
        logger.setLevel(logging.CRITICAL)
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)
        if bars:
            hf_logging.enable_progress_bar()


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
