"""GGUF files as model folders: unpacked once, by transformers' own reader, into a cache that only its owner can read.

A GGUF file holds tensors and settings, no code. What it says of a chat template goes into the folder's tokenizer like
any other model's: at a site with rows of its own a model's template never runs (``client_app.site_data``).
"""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedModel

from common.config import ConfigError, ModelConfig
from common.model.gguf_file import gguf_file
from common.model.precision import dtype_name
from common.model.weights_check import check_loaded, first_line, load_with_info, quiet_loading
from common.private_files import private_files, private_folder

_FORMAT = 1  # of what is cached; a higher one makes every folder anew
_NEW = ".new-"


def local_name(model: ModelConfig) -> str:
    """What transformers shall load for ``model.name``: a GGUF file's folder in the cache, or the name as it is.

    Raises ``ConfigError`` for a file that cannot be read or unpacked.
    """
    file = gguf_file(model.name)
    if file is None:
        return model.name
    try:
        return str(_unpacked(file, dtype_name(model)))
    except ConfigError:
        raise
    except OSError as error:
        raise ConfigError(
            f'model.name = "{model.name}": cannot be unpacked into {cache()}: {first_line(error)}; the environment '
            "variable XDG_CACHE_HOME names another place"
        ) from error


def cache() -> Path:
    """The folder of unpacked models."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "dr-encoder" / "models"


def _unpacked(file: Path, dtype: str) -> Path:
    """The folder of this very file, by its content; made where it is missing, by one process at a time."""
    home = cache()
    private_folder(home)
    with file.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    folder = home / f"{digest[:32]}-{dtype}-{_FORMAT}-{transformers.__version__}"
    if folder.is_dir():
        return folder
    with private_files(), _alone(home):
        for half in home.glob(f"{_NEW}*"):  # of a process that was killed
            shutil.rmtree(half)
        if not folder.is_dir():
            fresh = Path(tempfile.mkdtemp(dir=home, prefix=_NEW))
            _unpack(file, dtype, fresh)
            fresh.rename(folder)
    return folder


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    with (home / ".lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _unpack(file: Path, dtype: str, folder: Path) -> None:
    """Write the file's model and tokenizer as ``save_pretrained`` does, every weight in ``dtype``."""
    place = {"gguf_file": file.name, "trust_remote_code": False}
    try:
        with quiet_loading(), Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stderr(nowhere):
            model, info = load_with_info(
                str(file.parent),
                dtype=getattr(torch, dtype),
                quantization_config=GgufConfig(dequantize=True),
                **place,
            )
            check_loaded(str(file), info)
            _plain(model).save_pretrained(folder)
            AutoTokenizer.from_pretrained(str(file.parent), **place).save_pretrained(folder)
    except (ConfigError, OSError):
        raise
    except Exception as error:  # a reader of a format meets whatever is in a file
        raise ConfigError(
            f'model.name = "{file}": transformers {transformers.__version__} cannot read this GGUF file: '
            f"{first_line(error)}"
        ) from error


def _plain(model: PreTrainedModel) -> PreTrainedModel:
    """The same model without what reminds it of its file: one that came from GGUF cannot be saved."""
    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        plain: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=model.dtype)
    plain.load_state_dict(model.state_dict(), assign=True)
    plain.tie_weights()
    return plain
