"""What the readers of files share: rows and faults, bytes to lines, compression."""

import bz2
import gzip
import lzma
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE, BOM_UTF32_BE, BOM_UTF32_LE
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

Row = dict[str, Any]
OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_SIGNATURES = {
    BOM_UTF32_LE: "is UTF-32: save it as UTF-8",  # before UTF-16's, with which it begins
    BOM_UTF32_BE: "is UTF-32: save it as UTF-8",
    BOM_UTF16_LE: "is UTF-16: save it as UTF-8",
    BOM_UTF16_BE: "is UTF-16: save it as UTF-8",
    b"\x1f\x8b": "is packed by gzip: unpack it, or let its name end in .gz",
    b"BZh91AY&SY": "is packed by bzip2: unpack it, or let its name end in .bz2",
    b"\xfd7zXZ\x00": "is packed by xz: unpack it, or let its name end in .xz",
    b"PK\x03\x04": "is a zip archive, or a workbook: unpack it, or save it as text",
    b"PAR1\x15": "is Parquet: let its name end in .parquet",
}
"""How files begin that are no text in UTF-8."""


class FileFault(ValueError):
    """A file of which no row can be read, in one line."""


@dataclass(frozen=True)
class RowFault:
    """Stands for a row that cannot be read: why, in one line that names the place in the file."""

    reason: str


def one_line(error: BaseException) -> str:
    """The first line of what an error says, or its kind where it says nothing."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def open_bytes(path: Path) -> BinaryIO:
    """The bytes of a file, unpacked where its last suffix says that they are packed."""
    opener = OPENERS.get(path.suffix.lower())
    return opener(path, "rb") if opener else path.open("rb")  # type: ignore[no-any-return]


def lines_of(handle: BinaryIO) -> Iterator[tuple[int, int, bytes]]:
    """Number and first byte of each line, and the line; a mark of UTF-8 at the start is no part of it."""
    offset = 0
    for number, line in enumerate(handle, start=1):
        if number == 1:
            _check_text(line)
        start = len(BOM_UTF8) if number == 1 and line.startswith(BOM_UTF8) else 0
        yield number, offset + start, line[start:]
        offset += len(line)


def _check_text(line: bytes) -> None:
    """Refuse a file by its first line, where that shows that no line of it is text in UTF-8 (``FileFault``)."""
    for start, what in _SIGNATURES.items():
        if line.startswith(start):
            raise FileFault(f"the file {what}")
    if b"\x00" in line[:4]:  # no text has a NUL, and every second letter in UTF-16 does
        raise FileFault("the file has zero bytes where text should be; if it is UTF-16 or UTF-32, save it as UTF-8")


def not_utf8(number: int, offset: int, error: UnicodeDecodeError) -> str:
    """The fault of a line that begins at byte ``offset`` of its file."""
    return (
        f"line {number} is not UTF-8: byte {offset + error.start} of the file, counted from 0, is "
        f"0x{error.object[error.start]:02x}. Save the file as UTF-8 (from Latin-1: iconv -f LATIN1 -t UTF-8)"
    )


def is_text(value: str) -> bool:
    """Whether UTF-8 can hold it; half a surrogate pair it cannot."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_names(names: Iterable[str]) -> None:
    """Refuse a table of no columns, or of two columns of one name (``FileFault``)."""
    counts = Counter(names)
    if not counts:
        raise FileFault("the file has no columns")
    name, count = counts.most_common(1)[0]
    if count > 1:
        raise FileFault(f'{count} columns are called "{name}": give each column a name of its own')
