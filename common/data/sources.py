"""Where rows come from: local files and directories, and data sets of the Hugging Face hub."""

import logging
from itertools import product
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, List, Value, concatenate_datasets, disable_progress_bars, load_dataset
from datasets import config as datasets_config
from datasets.exceptions import DatasetsError
from pandas import read_csv

from common.config import ConfigError, DataConfig
from common.data.formats import FORMATS, Format

datasets_config.HF_UPDATE_DOWNLOAD_COUNTS = False  # who reads a local file calls nobody
disable_progress_bars()  # a client's terminal is the federation's log
_FILES = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
_log = logging.getLogger(__name__)


def load_examples(path: str, data: DataConfig, *, held_out: bool = False) -> Dataset:
    """Read a local JSONL, CSV or Parquet file, a local directory or a hub data set, in the configured format.

    A directory or hub set is read at ``data.subset`` and ``data.train-split``, or their ``evaluation-`` twins when
    ``held_out``; a file is read whole. The result has the configured prompt and completion columns, and for a named
    format also ``message`` and, where the format has them, ``group`` and ``choices``. Raises ``ConfigError``.
    """
    subset = (data.evaluation_subset or data.subset) if held_out else data.subset
    split = data.evaluation_split if held_out else data.train_split
    rows = _read(path, subset, split, data.revision)
    if len(rows) == 0:
        raise ConfigError(f'data "{path}": could not be read as examples: the file has no rows')
    if data.format == "columns":
        return _check_columns(rows, path, data)
    return _apply_format(rows, path, data.format)


def _read(path: str, subset: str, split: str, revision: str) -> Dataset:
    suffix = Path(path).suffix.lower()
    try:
        if suffix == ".csv":
            return _read_csv(path)
        if suffix in _FILES:
            return load_dataset(_FILES[suffix], data_files=path, split="train")
        names: list[str | None] = [name.strip() for name in subset.split(",") if name.strip()]
        return concatenate_datasets([_read_subset(path, name, split, revision) for name in names or [None]])
    except (OSError, ValueError, RuntimeError, DatasetsError, StopIteration) as error:  # the last: an empty file
        raise ConfigError(
            f'data "{path}": could not be read as a {"/".join(_FILES)} file, a directory or a hub data set'
            f"{f' (subset {subset!r}, split {split!r})' if suffix not in _FILES else ''}: {_reason(error)}"
        ) from error


def _read_csv(path: str) -> Dataset:
    """Every cell as the text that is written there ("NA", "None" and "1.0" too); only an empty one is none."""
    columns = read_csv(path, nrows=0).columns
    return load_dataset(
        "csv",
        data_files=path,
        split="train",
        features=Features({str(column): Value("string") for column in columns}),
        keep_default_na=False,
        na_values=[""],
    )


def _read_subset(path: str, subset: str | None, split: str, revision: str) -> Dataset:
    rows = load_dataset(path, subset, split=split, revision=revision or None)
    if rows.column_names == ["train"]:  # cais/mmlu, subset auxiliary_train: the row is one record of that name
        rows = rows.flatten().rename_columns({f"train.{name}": name for name in rows.features["train"]})
    if subset and "subset" not in rows.column_names:
        rows = rows.add_column("subset", [subset] * len(rows))
    return rows


def _reason(error: BaseException) -> str:
    """What went wrong at the root, in one line: ``datasets`` wraps it in general words."""
    if isinstance(error, StopIteration):
        return "the file is empty"
    return str(error.__cause__ or error).splitlines()[0]


def _check_columns(dataset: Dataset, path: str, data: DataConfig) -> Dataset:
    """The rows, numbers and truth values as texts; every one must have something to learn and to ask with."""
    columns = (("prompt-column", data.prompt_column), ("completion-column", data.completion_column))
    for key, column in columns:
        if column not in dataset.column_names:
            raise ConfigError(
                f'data.{key} = "{column}": not a column of "{path}", which has {", ".join(dataset.column_names)}'
            )
        if not isinstance(dataset.features[column], Value):
            raise ConfigError(f'data.{key} = "{column}": holds lists or records in "{path}"; text is needed')
        dataset = _as_text(dataset, column, Value("string"))
    choices = dataset.features.get("choices")
    if isinstance(choices, List) and isinstance(choices.feature, Value):
        dataset = _as_text(dataset, "choices", List(Value("string")))
    for key, column in columns:
        for number, text in enumerate(dataset[column], start=1):
            if text is None or (key == "completion-column" and not text):
                raise ConfigError(
                    f'data.{key} = "{column}": row {number} of "{path}" has no text there; fill it or drop the row'
                )
    return dataset


def _as_text(dataset: Dataset, column: str, kind: Value | List) -> Dataset:
    return dataset if dataset.features[column] == kind else dataset.cast_column(column, kind)


def _apply_format(dataset: Dataset, path: str, name: str) -> Dataset:
    layout = FORMATS[name]
    absent = [column for column in layout.columns if column not in dataset.column_names]
    if absent:
        raise ConfigError(
            f'data.format = "{name}": "{path}" lacks {", ".join(absent)}; it has {", ".join(dataset.column_names)}. '
            'For other columns use data.format = "columns"'
        )
    written = _columns_of(layout)
    kept = {key: kind for key, kind in dataset.features.items() if key not in layout.columns and key not in written}
    columns: dict[str, list[Any]] = {key: [] for key in (*written, *kept)}
    answered = 0
    for number, row in enumerate(dataset, start=1):
        try:
            examples = list(layout.examples(row))
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f'data.format = "{name}": row {number} of "{path}": {error}') from error
        answered += bool(examples)
        for example, key in product(examples, columns):
            columns[key].append(getattr(example, key) if key in written else row[key])
    if not answered:
        raise ConfigError(
            f'data.format = "{name}": none of the {len(dataset)} rows of "{path}" has an answer (a test split hides '
            "them); take another split"
        )
    if answered < len(dataset):
        _log.warning("%s: %d of %d rows have no answer and are left out", path, len(dataset) - answered, len(dataset))
    return Dataset.from_dict(columns, features=Features({**written, **kept}))


def _columns_of(layout: Format) -> dict[str, Any]:
    text = Value("string")
    columns: dict[str, Any] = {"prompt": text, "completion": text, "message": text}
    if layout.grouped:
        columns["group"] = text
    if layout.multiple_choice:
        columns["choices"] = List(text)
    return columns
