"""``output.tracker``: the figures of ``metrics.jsonl`` for the tools that people compare runs with.

What stays on the server gets every figure; what is made to leave it (Weights & Biases, or an MLflow server elsewhere)
gets those of ``PUBLIC`` only: the others tell who took part.
"""

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from common.config import ConfigError, OutputConfig, Scalar
from common.private_files import private_file
from server_app.results.score_names import PRIVATE_ACCURACY, PRIVATE_LOSS

PUBLIC = ("loss", "accuracy", "retention", "validation_loss", "epsilon", PRIVATE_LOSS, PRIVATE_ACCURACY)
"""Figures that a published report shows for each round; with their groups and standard errors."""

_PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}
_DISTRIBUTIONS = {"mlflow": "mlflow-skinny"}
_LONGEST = 200  # letters of a group's name that MLflow is told


class Tracker(Protocol):
    """Where figures go, one step for each round, on disk at once."""

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Keep the figures of a round."""

    def close(self) -> None:
        """Nothing more will be written."""


class Sink:
    """Hands a run's lines to its tracker.

    Args:
        tracker: where they go.
        public: whether only what is published may go there.

    """

    def __init__(self, tracker: Tracker, *, public: bool) -> None:
        self._tracker, self._public = tracker, public

    def write(self, line: Mapping[str, Any]) -> None:
        """A line of ``metrics.jsonl``: each finite number under its name, ``loss.sum`` as ``loss/sum``."""
        figures = {
            key.replace(".", "/", 1): float(value)
            for key, value in line.items()
            if key != "round" and isinstance(value, int | float) and math.isfinite(value) and self._may_go(key)
        }
        self._tracker.write(line["round"], figures)

    def close(self) -> None:
        """Nothing more will be written."""
        self._tracker.close()

    def _may_go(self, key: str) -> bool:
        return not self._public or key.partition(".")[0].removesuffix("_error") in PUBLIC


def check_tracker(output: OutputConfig) -> None:
    """Refuse a run whose tracker's package is missing, or whose database others own; only the server needs it."""
    name = output.tracker
    if name != "none" and find_spec(_PACKAGES[name]) is None:
        package = _DISTRIBUTIONS.get(name, name)
        raise ConfigError(
            f'output.tracker = "{name}": the package {package} is not installed on this machine; '
            f'pip install -c constraints.txt {package} in a clone, or set it to "none"'
        )
    place = Path(output.dir)
    if name == "mlflow" and not _mlflow_elsewhere() and _database(place).exists():
        try:
            _close_database(place)
        except OSError as error:
            raise ConfigError(f'output.tracker = "mlflow": {error}; move it away, or set another output.dir') from None


def open_sink(tracker: str, folder: Path, settings: Mapping[str, Scalar], first: int) -> Sink | None:
    """The tracker that the run asks for, in its folder; ``None`` for none.

    ``first``: the step that comes next; what an interrupted session wrote from there on counts no longer where the
    tracker can forget.
    """
    if tracker == "none":
        return None
    openers: dict[str, Callable[[], Sink]] = {
        "tensorboard": lambda: Sink(_TensorBoard(folder / "tensorboard", first), public=False),
        "wandb": lambda: Sink(_Wandb(folder, settings), public=True),
        "mlflow": lambda: _mlflow(folder, settings),
    }
    return openers[tracker]()


class _TensorBoard:
    def __init__(self, folder: Path, first: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - an optional package, and seconds

        self._writer = SummaryWriter(str(folder), purge_step=first)

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        for key, value in figures.items():
            self._writer.add_scalar(key, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    """A run on disk that ``wandb sync`` sends; sent at once only where ``WANDB_MODE=online`` says so.

    Of the machine nothing is told: no host, program, packages, repository, console or load.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        os.environ["WANDB_ERROR_REPORTING"] = "false"  # its own crashes would be told to its makers
        import wandb  # noqa: PLC0415 - an optional package

        quiet = wandb.Settings(
            console="off", disable_git=True, disable_code=True, save_code=False, silent=True,
            x_disable_meta=True, x_disable_stats=True, x_disable_machine_info=True, x_save_requirements=False,
            host="", username="", email="",
        )  # fmt: skip
        mode: Any = os.environ.get("WANDB_MODE", "offline")
        self._run = wandb.init(
            project="dr-encoder", name=folder.name, id=re.sub(r"[^\w-]", "-", folder.name), dir=str(folder),
            config=dict(settings), mode=mode, resume="allow", settings=quiet,
        )  # fmt: skip

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        self._run.log(dict(figures), step=step)

    def close(self) -> None:
        self._run.finish()


def _mlflow(folder: Path, settings: Mapping[str, Any]) -> Sink:
    """A database in ``output.dir`` for all runs, or the server that ``MLFLOW_TRACKING_URI`` names."""
    elsewhere = _mlflow_elsewhere()
    if not elsewhere:
        _close_database(folder.parent)
    store = elsewhere or f"sqlite:///{_database(folder.parent)}"
    return Sink(_Mlflow(folder, store, settings), public=bool(elsewhere))


def _mlflow_elsewhere() -> str:
    return os.environ.get("MLFLOW_TRACKING_URI", "")


def _database(place: Path) -> Path:
    return place / "mlflow.db"


def _close_database(place: Path) -> None:
    """Only the server's user reads it: ``mlflow ui``, which makes it where it looks first, lets everybody."""
    whole = _database(place)
    private_file(whole)
    for part in (whole.with_name(f"{whole.name}-{kind}") for kind in ("journal", "wal", "shm")):
        if part.exists():
            private_file(part)


class _Mlflow:
    def __init__(self, folder: Path, store: str, settings: Mapping[str, Any]) -> None:
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # read when it is imported
        from mlflow import MlflowClient  # noqa: PLC0415 - an optional package
        from mlflow.entities import Param  # noqa: PLC0415

        self._client = MlflowClient(store)
        found = self._client.get_experiment_by_name("dr-encoder")
        experiment = found.experiment_id if found else self._client.create_experiment("dr-encoder")
        known = self._known(experiment, folder.name)
        if known:  # resumed
            self._run = known
            return
        self._run = self._client.create_run(experiment, run_name=folder.name).info.run_id
        self._client.log_batch(self._run, params=[Param(key, str(value)) for key, value in settings.items()])

    def _known(self, experiment: str, name: str) -> str:
        """The run of that name; ``""`` if there is none. A filter has no way to write a quotation mark."""
        page = self._client.search_runs([experiment])
        while True:
            for run in page:
                if run.info.run_name == name:
                    return str(run.info.run_id)
            if not page.token:
                return ""
            page = self._client.search_runs([experiment], page_token=page.token)

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        names = _mlflow_names(figures)
        for key, value in figures.items():
            self._client.log_metric(self._run, names[key], value, step=step)

    def close(self) -> None:
        self._client.set_terminated(self._run)


def _mlflow_names(keys: Iterable[str]) -> dict[str, str]:
    """Each key as MLflow takes it: of a group's name the letters, digits and some signs, and none that is a path."""
    names: dict[str, str] = {}
    for key in sorted(keys):
        score, slash, group = key.partition("/")
        plain = re.sub(r"[^\w .:-]", "_", group)[:_LONGEST]
        plain = plain if plain.strip(".") else f"_{plain}"
        name = wanted = f"{score}/{plain}" if slash else score
        number = 1
        while name in names.values():
            number += 1
            name = f"{wanted}_{number}"
        names[key] = name
    return names
