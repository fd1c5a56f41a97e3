"""CSV: every cell as the text that is written there."""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from common.counts import count
from common.data.raw import FileFault, Row, RowFault, check_names, is_text, lines_of, not_utf8, open_bytes

csv.field_size_limit(sys.maxsize)  # 131,072 letters else, which a long document has


class _Text:
    """Lines as texts; a byte that is not UTF-8 becomes half a surrogate pair, and ``fault`` says where it stands.

    ``first``: the first of them.
    """

    def __init__(self, handle: BinaryIO) -> None:
        self._handle = handle
        self.fault = self.first = ""

    def __iter__(self) -> Iterator[str]:
        for number, offset, line in lines_of(self._handle):
            try:
                text = line.decode()
            except UnicodeDecodeError as error:
                self.fault = not_utf8(number, offset, error)
                text = line.decode(errors="surrogateescape")
            self.first = self.first or text
            yield text


def csv_rows(path: Path, delimiter: str) -> Iterator[Row | RowFault]:
    """Every cell as it is written ("NA", "None", "007"); only an empty one is none."""
    with open_bytes(path) as handle:
        lines = _Text(handle)
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        try:
            header = next((cells for cells in reader if cells), [])
        except csv.Error as error:
            raise FileFault(_not_csv(reader.line_num, error, lines.first, delimiter)) from error
        if lines.fault:
            raise FileFault(lines.fault)
        check_names(header)
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield RowFault(_not_csv(reader.line_num, error, lines.first, delimiter))
                continue
            if not cells:
                continue
            if len(cells) != len(header):
                yield RowFault(_uneven(reader.line_num, cells, header, delimiter))
            elif not all(map(is_text, cells)):
                yield RowFault(lines.fault)
            else:
                yield {name: cell or None for name, cell in zip(header, cells, strict=True)}


def other_delimiter(header: str) -> str:
    """A sentence, with the blank before it, where a header of one cell has another delimiter in it; else ``""``."""
    for name, mark in (("semicolons", ";"), ("tabs", "\t"), ("bars", "|")):
        if mark in header:
            return f". Its cells are parted by {name}: save it with commas" + (" or as .tsv" if mark == "\t" else "")
    return ""


def _uneven(line: int, cells: list[str], header: list[str], delimiter: str) -> str:
    """What is wrong with a row of too few or too many cells: in a table of semicolons decimal commas part it."""
    said = f"line {line} ends a row of {count(len(cells), 'cell')}; the header has {len(header)}"
    if len(header) == 1 and (likely := other_delimiter(header[0])):
        return said + likely
    name = "tab" if delimiter == "\t" else "comma"
    return said + (f". A cell with a {name} in it needs quotes" if len(cells) > len(header) else "")


def _not_csv(line: int, error: csv.Error, first: str, delimiter: str) -> str:
    """What is wrong with a line; the module's word on a lone carriage return speaks of how a program opened it."""
    alone = "new-line character" in str(error)
    reason = "a carriage return stands alone outside quotes; end lines with LF or CR LF" if alone else str(error)
    likely = "" if alone or delimiter in first else other_delimiter(first)
    return f"line {line} is not CSV: {reason}{likely}"
