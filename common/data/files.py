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
from common.data.raw import FileFault, Row, RowFault, one_line
from common.file_names import CSV, PARQUET, kind_of

_ARRAY = ".json"


def rows_of_file(path: Path, delimiter: str = "") -> Iterator[Row | RowFault]:
    """The rows of a JSONL, JSON, CSV or Parquet file in their order, one at a time; what follows a fault is read on.

    ``delimiter``: of a CSV file, when it isn't the one its suffix says. Raises ``FileFault``.
    """
    kind = kind_of(path)
    try:
        if path.stat().st_size == 0:
            raise FileFault("the file is empty")
        if kind in PARQUET:
            yield from parquet_rows(path)
        elif kind in CSV:
            yield from csv_rows(path, delimiter or ("\t" if kind == ".tsv" else ","))
        else:
            yield from json_rows(path, array=kind == _ARRAY)
    except (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException, csv.Error) as error:
        raise FileFault(getattr(error, "strerror", None) or one_line(error)) from error
