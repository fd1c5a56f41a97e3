"""Rows of texts gathered as Arrow columns in memory: no file is written, and rows may differ in their columns."""

from collections.abc import Mapping

import pyarrow as pa
from datasets import Dataset, Features, List, Value

CHOICES = "choices"
MESSAGES = "messages"
"""Column of conversations, as JSON."""
_ROWS = 10_000  # of one chunk: as many are held as Python objects at a time


class Table:
    """Columns of text, and ``choices`` of lists of texts; a row without a column has ``None`` there."""

    def __init__(self, *columns: str) -> None:
        self._waiting: list[Mapping[str, object]] = []
        self._columns = dict.fromkeys(columns)  # an ordered set
        self._chunks: list[tuple[int, dict[str, pa.Array]]] = []

    def add(self, row: Mapping[str, object]) -> None:
        """One row more."""
        self._waiting.append(row)
        if len(self._waiting) == _ROWS:
            self._pack()

    def dataset(self) -> Dataset:
        """All rows, with the columns in the order in which they were first seen."""
        self._pack()
        columns = {name: self._column(name) for name in self._columns}
        kinds = {name: List(Value("string")) if name == CHOICES else Value("string") for name in columns}
        return Dataset.from_dict(columns, features=Features(kinds))

    def _pack(self) -> None:
        rows, self._waiting = self._waiting, []
        names = dict.fromkeys(name for row in rows for name in row)
        self._columns |= names
        self._chunks.append(
            (len(rows), {name: pa.array([row.get(name) for row in rows], _kind(name)) for name in names})
        )

    def _column(self, name: str) -> pa.ChunkedArray:
        pieces = [chunk[name] if name in chunk else pa.nulls(count, _kind(name)) for count, chunk in self._chunks]
        return pa.chunked_array(pieces, _kind(name))


def _kind(name: str) -> pa.DataType:
    return pa.list_(pa.string()) if name == CHOICES else pa.string()
