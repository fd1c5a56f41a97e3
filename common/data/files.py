"""Rows of local files, with every value as the text that stands there; a file's name is a name and never a pattern.

A value of a row is a text, ``None``, or a list or a record of such values. No type is guessed: a number, a date or a
truth value of a JSON file is the letters of the file. Parquet has types of its own, which have one text each: numbers
in their shortest form, dates and times in ISO 8601, truth values as ``true`` and ``false``.
"""

import csv
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from common.data.csv_rows import csv_rows
from common.data.json_rows import json_rows
from common.data.parquet_rows import parquet_rows
from common.data.raw import OPENERS, FileFault, Row, RowFault, one_line

_ARRAY = ".json"
_JSON, _CSV, _PARQUET = (".jsonl", ".ndjson", _ARRAY), (".csv", ".tsv"), (".parquet",)
KINDS = (*_JSON, *_CSV, *_PARQUET)


def kind_of(path: Path) -> str:
    """The suffix that says how a file is written, in lower case, a compression's after it aside; else ``""``."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    while suffixes and suffixes[-1] in OPENERS:
        suffixes.pop()
    return suffixes[-1] if suffixes and suffixes[-1] in KINDS else ""


def rows_of_file(path: Path, delimiter: str = "") -> Iterator[Row | RowFault]:
    """The rows of a JSONL, JSON, CSV or Parquet file in their order, one at a time; what follows a fault is read on.

    ``delimiter``: of a CSV file, when it isn't the one its suffix says. Raises ``FileFault``.
    """
    kind = kind_of(path)
    try:
        if path.stat().st_size == 0:
            raise FileFault("the file is empty")
        if kind in _PARQUET:
            yield from parquet_rows(path)
        elif kind in _CSV:
            yield from csv_rows(path, delimiter or ("\t" if kind == ".tsv" else ","))
        else:
            yield from json_rows(path, array=kind == _ARRAY)
    except (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException, csv.Error) as error:
        raise FileFault(getattr(error, "strerror", None) or one_line(error)) from error
