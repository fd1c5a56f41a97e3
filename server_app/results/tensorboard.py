"""``output.tensorboard``: the figures of ``metrics.jsonl`` as TensorBoard scalars in ``results/<run>/tensorboard/``."""

import math
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from common.config import ConfigError, RunConfig


def check_tensorboard(config: RunConfig) -> None:
    """Refuse a run that wants scalars where the package that writes them is missing; only the server needs it."""
    if config.output.tensorboard and find_spec("tensorboard") is None:
        raise ConfigError(
            "output.tensorboard = true: the package tensorboard is not installed on this machine; "
            "pip install -c constraints.txt tensorboard in a clone, or set it to false"
        )


class Scalars:
    """Writes one step for each round, on disk at once.

    Args:
        folder: where the event file goes.
        first: the step that comes next; what an interrupted session wrote from there on counts no longer.

    """

    def __init__(self, folder: Path, first: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - an optional package, and seconds

        self._writer = SummaryWriter(str(folder), purge_step=first)

    def write(self, line: Mapping[str, Any]) -> None:
        """A line of ``metrics.jsonl``: each finite number under its name, ``loss.sum`` as ``loss/sum``."""
        for key, value in line.items():
            if key != "round" and isinstance(value, int | float) and math.isfinite(value):
                self._writer.add_scalar(key.replace(".", "/"), value, line["round"])
        self._writer.flush()

    def close(self) -> None:
        """Nothing more will be written."""
        self._writer.close()
