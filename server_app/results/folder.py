"""The folder of one run: ``results/<run>/``, and ``results/latest`` pointing at the last that has ended.

``PUBLISHED`` is all of it that is meant for others. The rest is the server's own: it tells who took part and when. So
the folder is its owner's alone (0700), as are the files (0600); those to be published are readable (0644), once copied.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w

from common.config import ConfigError, RunConfig, nest
from common.private_files import close_to_others, open_to_others
from server_app.results import json_lines
from server_app.results.published_names import public_name
from server_app.results.resuming import taken

if TYPE_CHECKING:  # torch takes seconds, and leaves a folder in TMPDIR: not for who only reads results
    from torch import Tensor

    from common.model.adapted import AdaptedModel

PUBLISHED = ("adapter", "report.html", "report.md", "progress.png", "epsilon.png", "bytes.png")


class RunFolder:
    """Paths and writers of one run's results."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, config: RunConfig) -> "RunFolder":
        """Make the folder of a new run, or take the one that is resumed."""
        if config.resume:
            folder = cls(Path(config.resume).resolve())
            close_to_others(folder.path)  # of a version that left it open, or copied here
        else:
            folder = cls(Path(config.output.dir).resolve() / config.folder_name())
            try:
                folder.path.mkdir(mode=0o700, parents=True, exist_ok=False)
            except FileExistsError:
                raise taken(folder.path) from None
        return folder

    @contextmanager
    def held(self) -> Iterator[None]:
        """Have the folder to oneself: two that went on with one run would print an epsilon each, of half of the rounds.

        The system takes that back when this process dies. Raises ``ConfigError`` where another process has it.
        """
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if not _lock(descriptor, fcntl.LOCK_EX, tries=20):
                raise ConfigError(f'resume = "{self.path}": another process is going on with that run')
            self.stop.unlink(missing_ok=True)  # of an earlier session
            yield
        finally:
            os.close(descriptor)

    @property
    def checkpoint(self) -> Path:
        """Where checkpoints go."""
        return self.path / "checkpoint"

    @property
    def engine_log(self) -> Path:
        """Flower's log of the run, where ``dr-encoder run`` has started it: beside the folder, which comes later."""
        return self.path.parent / f"{self.path.name}.flower.log"

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
    def adapter(self) -> Path:
        """The fine-tuned adapter in PEFT's format, with its model card."""
        return self.path / "adapter"

    @property
    def stop(self) -> Path:
        """Where it is asked that the run stops before its next round: a file, whatever it holds."""
        return self.path / "stop"

    def ask_to_stop(self) -> None:
        """Ask the process that runs this run, whichever it is, to stop before it charges another round."""
        os.close(os.open(self.stop, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600))

    def is_held(self) -> bool:
        """Whether a process of this machine runs the run."""
        place = os.open(self.path, os.O_RDONLY)
        try:
            return not _lock(place, fcntl.LOCK_SH, tries=1)
        finally:
            os.close(place)

    def append_metrics(self, line: Mapping[str, Any]) -> None:
        """Add one round, on disk before this returns."""
        json_lines.append(self.metrics, json.dumps(json_lines.finite(line), allow_nan=False))

    def read_metrics(self) -> list[dict[str, Any]]:
        """All rounds so far; of a round that was run again after a crash, the last account."""
        return [row for _, row in sorted({row["round"]: row for row in json_lines.read(self.metrics)}.items())]

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Write a JSON document; infinities become the text "inf", since JSON has none."""
        (self.path / name).write_text(json.dumps(json_lines.finite(value), indent=2) + "\n", encoding="utf-8")

    def write_config(self, config: RunConfig, clients: int) -> None:
        """Write ``config.toml``, which runs this run again, in a new folder and with as many clients."""
        flat = config.flat() | {"resume": "", "output.name": "", "federation.num-clients": clients}
        (self.path / "config.toml").write_text(tomli_w.dumps(nest(flat)), encoding="utf-8")

    def save_adapter(self, adapted: "AdaptedModel", adapter: "Tensor", base_model: str) -> None:
        """Write ``adapter/`` in PEFT's format, and a sample of its base model, by which another is recognized.

        Of a local ``base_model`` it has the last name only, never the path. Of an embedding it has the factors alone:
        PEFT would save it whole, after it has looked for the base model on the hub.
        """
        from common.model.base_sample import BASE_FILE, base_sample  # noqa: PLC0415 - torch, as above

        adapted.load(adapter)
        adapted.model.peft_config["default"].base_model_name_or_path = public_name(base_model)
        adapted.model.save_pretrained(str(self.adapter), save_embedding_layers=False)
        self.write_json(f"adapter/{BASE_FILE}", {"input_embedding": base_sample(adapted.model)})

    def publish(self, card: str) -> None:
        """Put the model card to the adapter, and let others read what is meant for them once it is copied from here."""
        (self.adapter / "README.md").write_text(card, encoding="utf-8")
        for path in (self.path / name for name in PUBLISHED):
            if path.exists():  # who runs many, as a comparison does, draws no plots
                open_to_others(path)

    def point_latest(self) -> None:
        """Let ``latest`` name this run, which has something to show: an adapter and a report.

        Raises ``OSError`` where it cannot, ``FileExistsError`` for what somebody else has called so, which stays.
        """
        link = self.path.parent / "latest"
        if link.exists() and not link.is_symlink():
            raise FileExistsError(f"{link} is there and no link")
        fresh = self.path.parent / f".latest-{os.getpid()}"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(self.path.name)
        try:
            fresh.replace(link)
        except OSError:
            fresh.unlink()
            raise


def _lock(place: int, kind: int, tries: int) -> bool:
    """Lock a folder, if need be after who only looks at it has let go; ``False`` where somebody else keeps it."""
    for left in range(tries - 1, -1, -1):
        try:
            fcntl.flock(place, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if left:
                time.sleep(0.1)
        else:
            return True
    return False
