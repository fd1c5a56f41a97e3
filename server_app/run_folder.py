"""The folder of one run: ``results/<run>/``, and ``results/latest`` pointing at it."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w

from common.config import ConfigError, RunConfig, nest
from server_app import json_lines

if TYPE_CHECKING:  # torch takes seconds, and leaves a folder in TMPDIR: not for who only reads results
    from torch import Tensor

    from common.models import AdaptedModel


class RunFolder:
    """Paths and writers of one run's results."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, config: RunConfig) -> "RunFolder":
        """Make the folder of a new run, or take the one that is resumed; ``latest`` points at it afterwards."""
        if config.resume:
            folder = cls(Path(config.resume).resolve())
        else:
            name = config.folder_name()
            folder = cls(Path(config.output.dir).resolve() / name)
            try:
                folder.path.mkdir(parents=True, exist_ok=False)
            except FileExistsError:
                raise ConfigError(
                    f'output.name = "{name}": {folder.path} exists already; choose another name, or set '
                    f'resume = "{folder.path}" to continue it'
                ) from None
        folder._point_latest()
        return folder

    @property
    def checkpoint(self) -> Path:
        """Where checkpoints go."""
        return self.path / "checkpoint"

    @property
    def ledger(self) -> Path:
        """The privacy ledger."""
        return self.path / "ledger.jsonl"

    @property
    def metrics(self) -> Path:
        """One JSON object a line for each round."""
        return self.path / "metrics.jsonl"

    @property
    def events(self) -> Path:
        """The structured log: one JSON object a line for each event."""
        return self.path / "events.jsonl"

    @property
    def tensorboard(self) -> Path:
        """Where scalars for TensorBoard go."""
        return self.path / "tensorboard"

    def append_metrics(self, line: Mapping[str, Any]) -> None:
        """Add one round, on disk before this returns."""
        json_lines.append(self.metrics, json.dumps(_finite(line), allow_nan=False))

    def read_metrics(self) -> list[dict[str, Any]]:
        """All rounds so far; of a round that was run again after a crash, the last account."""
        return [row for _, row in sorted({row["round"]: row for row in json_lines.read(self.metrics)}.items())]

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Write a JSON document; infinities become the text "inf", since JSON has none."""
        (self.path / name).write_text(json.dumps(_finite(value), indent=2) + "\n")

    def write_config(self, config: RunConfig, clients: int) -> None:
        """Write ``config.toml``, which runs this run again, in a new folder and with as many clients."""
        flat = config.flat() | {"resume": "", "output.name": "", "federation.num-clients": clients}
        (self.path / "config.toml").write_text(tomli_w.dumps(nest(flat)))

    def save_adapter(self, adapted: "AdaptedModel", adapter: "Tensor") -> None:
        """Write ``adapter/`` in PEFT's format, also of an embedding the factors alone; and a sample of its base."""
        from common.base_sample import BASE_FILE, base_sample  # noqa: PLC0415 - torch, as above

        adapted.load(adapter)
        adapted.model.save_pretrained(str(self.path / "adapter"), save_embedding_layers=False)
        self.write_json(f"adapter/{BASE_FILE}", {"input_embedding": base_sample(adapted.model)})

    def _point_latest(self) -> None:
        link = self.path.parent / "latest"
        fresh = self.path.parent / f".latest-{os.getpid()}"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(self.path.name)
        fresh.replace(link)


def _finite(value: Any) -> Any:  # noqa: ANN401 - walks arbitrary JSON
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return "inf" if value > 0 else "-inf"
    return None if isinstance(value, float) and math.isnan(value) else value
