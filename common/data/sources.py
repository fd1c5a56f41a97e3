"""Examples from where they lie: local files and directories, and data sets of the Hugging Face hub."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

from datasets import Dataset

from common.config import ConfigError, DataConfig
from common.counts import count
from common.data.advice import advice
from common.data.examples import RowError, examples_of, made_columns, needed_columns
from common.data.files import rows_of_file
from common.data.formats import FORMATS
from common.data.raw import FileFault, Row, RowFault
from common.data.sets import rows_of_set
from common.data.table import CHOICES, Table
from common.file_names import KINDS, kind_of

_log = logging.getLogger(__name__)


def load_examples(path: str, data: DataConfig, *, held_out: bool = False, key: str = "") -> Dataset:
    """Read a local JSONL, JSON, CSV or Parquet file, a local directory or a hub data set, in the configured format.

    A directory or hub set is read at ``data.subset`` and ``data.train-split``, or their ``evaluation-`` twins when
    ``held_out``; a file is read whole. Everything is text, as it is written. The result has the configured prompt and
    completion columns, and for a named format also ``message`` and, where the format has them, ``group`` and
    ``choices``. It lies in memory; no copy is written. A row that cannot be used raises ``ConfigError``, which names
    ``key``, or the usual one.
    """
    reading = _Reading(path, data, held_out=held_out, key=key)
    reading.read()
    reading.check()
    return reading.dataset()


def load_site_examples(path: str, data: DataConfig) -> Dataset:
    """A site's own rows, as ``load_examples`` reads them, but what cannot be used is left out and nothing is raised.

    Whether reading fails would tell something of the rows, so a file that cannot be read is one without rows. The
    site's own log has the count of what is left out, and nothing of a row.
    """
    try:
        reading = _Reading(path, data, local=True)  # a site's path is no name to ask a hub for
        reading.read()
        rows = reading.dataset()
    except MemoryError:  # no word of the file: it is read again for the next answer
        raise
    except Exception as error:  # whatever it is: it may depend on a row, so it must not leave
        _log.warning("the site's data cannot be read (%s): no row is used", type(error).__name__)
        return Table(*made_columns(data)).dataset()
    if reading.faults:
        _log.warning("the site's data: %d of %d rows cannot be used and are left out", reading.faults, reading.count)
    return rows


class _Reading:
    """One pass over the rows: the examples, the first fault, and which columns there were."""

    def __init__(
        self, path: str, data: DataConfig, *, held_out: bool = False, local: bool = False, key: str = ""
    ) -> None:
        self.count = self.faults = 0
        self._path, self._data, self._held_out, self._local = path, data, held_out, local
        key = key or ("data.evaluation" if held_out else "data.name")
        self._key = f'{key} = "{path}"'
        self._subset = data.subset
        self._split = data.evaluation_split if held_out else data.train_split
        file = Path(path).expanduser()
        try:
            self._file = file if kind_of(file) and not file.is_dir() else None
        except OSError as error:  # a name that no file can have
            raise ConfigError(f"{self._key}: {error.strerror}") from error
        self._layout = FORMATS.get(data.format)  # none for "columns"
        self._answered = 0
        self._first_fault = ""
        self._columns: dict[str, None] = {}  # an ordered set
        self._table = Table(*made_columns(data))

    def read(self) -> None:
        """Read to the end, whatever is found on the way; ``ConfigError`` where nothing can be read."""
        try:
            for row in self._rows():
                self.count += 1
                self._take(row)
        except FileFault as error:
            raise self._unreadable(str(error)) from error

    def check(self) -> None:
        """Refuse a source of which not every row could be used (``ConfigError``)."""
        if not self.count:
            raise self._unreadable("the file has no rows")
        self._check_columns()
        if self._first_fault:
            raise ConfigError(self._first_fault)
        if not self._answered:
            raise ConfigError(
                f'data.format = "{self._data.format}": none of the {count(self.count, "row")} of "{self._path}" has an '
                "answer (a test split hides them); take another split"
            )
        if self._answered < self.count:
            _log.warning(
                "%s: %d of %d rows have no answer and are left out",
                self._path, self.count - self._answered, self.count,
            )  # fmt: skip
        for alias, column in self._layout.aliases.items() if self._layout else ():
            if alias in self._columns:
                _log.warning("%s: rows have both %s and %s; %s is read", self._path, column, alias, column)

    def dataset(self) -> Dataset:
        """The examples of the rows that could be used."""
        rows = self._table.dataset()
        if self._held_out:
            self._check_every_row_has_choices(rows)
        return _with_messages(rows, self._data)

    def _rows(self) -> Iterator[Row | RowFault]:
        if self._file is not None:
            return rows_of_file(self._file)
        return rows_of_set(self._path, self._subset, self._split, self._data.revision, local=self._local)

    def _take(self, row: Row | RowFault) -> None:
        if isinstance(row, RowFault):
            self._fault(f"{self._key}: could not be read as examples: {row.reason}")
            return
        self._columns |= dict.fromkeys(self._layout.renamed(row) if self._layout else row)
        try:
            examples = list(examples_of(row, self._data))
        except RowError as error:
            place = f'{error.setting}: row {self.count} of "{self._path}"'
            self._fault(f"{place if error.setting else f'{self._key}: row {self.count}'}{error}")
            return
        self._answered += bool(examples)
        for example in examples:
            self._table.add(self._own(example) if self._local else example)

    def _own(self, example: Mapping[str, object]) -> Mapping[str, object]:
        """The columns that a site may need: time would tell of a row that brings a thousand others."""
        return {key: example[key] for key in (*made_columns(self._data), "message", CHOICES) if key in example}

    def _fault(self, message: str) -> None:
        self.faults += 1
        self._first_fault = self._first_fault or message

    def _unreadable(self, reason: str) -> ConfigError:
        if self._file is not None:
            return ConfigError(f"{self._key}: could not be read as examples: {reason}")
        kinds = "/".join(KINDS)
        return ConfigError(
            f"{self._key}: could not be read as a {kinds} file, a directory or a hub data set "
            f"(subset {self._subset!r}, split {self._split!r}): {reason}"
        )

    def _check_columns(self) -> None:
        """A column that no row has is the settings' fault and not the first row's."""
        if not self._columns:  # no row could be read at all: the first fault says why
            return
        absent = {column: key for column, key in needed_columns(self._data).items() if column not in self._columns}
        there = ", ".join(f'"{name}"' if "," in name else name for name in self._columns)
        more = advice(self._columns, self._path, self._data.format)
        if absent and self._data.format != "columns":
            raise ConfigError(
                f'data.format = "{self._data.format}": "{self._path}" lacks {", ".join(absent)}; it has {there}'
                + (more or '. For other columns use data.format = "columns"')
            )
        for key in absent.values():
            raise ConfigError(f'{key}: not a column of "{self._path}", which has {there}{more}')

    def _check_every_row_has_choices(self, rows: Dataset) -> None:
        """Scores are of all rows or of none."""
        if CHOICES not in rows.column_names:
            return
        for number, choices in enumerate(rows[CHOICES], start=1):
            if choices is None:
                raise ConfigError(f"{self._key}: row {number} has no choices, though others have: give all rows some")
            if len(set(choices)) < 2:
                raise ConfigError(
                    f"{self._key}: row {number} has choices = {choices!r}: give it two different texts or more"
                )


def _with_messages(rows: Dataset, data: DataConfig) -> Dataset:
    """A row that has no text in an own column ``message``, which a chat template writes, says its prompt."""
    if "message" not in rows.column_names or None not in rows["message"]:
        return rows
    texts = zip(rows["message"], rows[data.prompt_column], strict=True)
    messages = [prompt if message is None else message for message, prompt in texts]
    return rows.remove_columns("message").add_column("message", messages)
