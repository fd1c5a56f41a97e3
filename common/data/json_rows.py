"""JSON: one object a line, or one array of objects; numbers keep the letters that are written there."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.data.raw import Row, RowFault, is_text, lines_of, not_utf8, open_bytes

_GAP = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True)
class _Twice:
    """Stands for a record that has a key twice: which value is meant nobody can say."""

    key: str


def _record(pairs: list[tuple[str, Any]]) -> dict[str, Any] | _Twice:
    record = dict(pairs)
    if len(record) == len(pairs):
        return record
    return _Twice(Counter(key for key, _ in pairs).most_common(1)[0][0])


_DECODER = json.JSONDecoder(
    object_pairs_hook=_record,
    parse_int=str,
    parse_float=str,
    parse_constant=lambda _: None,  # NaN and Infinity, which JSON has not: a gap, as in a table
)


def json_rows(path: Path, *, array: bool) -> Iterator[Row | RowFault]:
    """One object a line; where the suffix allows it (``array``), also one array of objects."""
    started = not array
    with open_bytes(path) as handle:
        for number, offset, line in lines_of(handle):
            if not started and line.lstrip().startswith(b"["):
                yield from _array_rows(number, offset, line + handle.read())
                return
            if line.strip():
                started = True
                yield _line_row(number, offset, line)


def _line_row(number: int, offset: int, line: bytes) -> Row | RowFault:
    place = f"line {number}"
    try:
        text = line.decode().strip()
        value, end = _DECODER.raw_decode(text)
    except UnicodeDecodeError as error:
        return RowFault(not_utf8(number, offset, error))
    except json.JSONDecodeError as error:
        return RowFault(f"{place} is not JSON: {error.msg.removesuffix(' at')} at column {error.colno}")
    except RecursionError:
        return RowFault(f"{place} is nested too deeply")
    if end < len(text):
        return RowFault(f"{place} is not JSON: more text after the object, at column {end + 1}")
    return _checked(value, place)


def _array_rows(number: int, offset: int, raw: bytes) -> Iterator[Row | RowFault]:
    """The rows of an array, made one at a time: its text is in memory as a whole, its rows are not."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        yield RowFault(not_utf8(number + raw.count(b"\n", 0, error.start), offset, error))
        text = raw.decode(errors="surrogateescape")  # the rows without such bytes are good
    text = "\n" * (number - 1) + text  # so that faults name lines of the file
    position, row, mark = text.index("[") + 1, 0, ","
    if text.startswith("]", _skip(text, position)):
        return
    try:
        while mark == ",":
            value, position = _DECODER.raw_decode(text, _skip(text, position))
            row += 1
            yield _checked(value, f"element {row}")
            position = _skip(text, position) + 1
            mark = text[position - 1 : position]
        if mark != "]" or _skip(text, position) < len(text):
            raise json.JSONDecodeError("one array of objects is needed, then nothing", text, position - 1)
    except json.JSONDecodeError as error:
        yield RowFault(f"line {error.lineno} is not JSON: {error.msg.removesuffix(' at')} at column {error.colno}")
    except RecursionError:
        yield RowFault(f"element {row + 1} is nested too deeply")


def _skip(text: str, position: int) -> int:
    gap = _GAP.match(text, position)
    return gap.end() if gap else position


def _checked(value: object, place: str) -> Row | RowFault:
    """A row of texts from a parsed value."""
    if not isinstance(value, dict | _Twice):
        hint = "; call a file of one array .json" if isinstance(value, list) else ""
        return RowFault(f'{place} is no JSON object: {{"column": "text", ...}} is needed{hint}')
    try:
        row = _texts(value)
    except ValueError as error:
        return RowFault(f"{place} {error}")
    except RecursionError:
        return RowFault(f"{place} is nested too deeply")
    return row  # type: ignore[no-any-return]


def _texts(value: Any) -> Any:  # noqa: ANN401 - whatever JSON holds
    """The value with truth values as texts. Raises ``ValueError`` for what is no text."""
    if isinstance(value, str):
        if not is_text(value):
            raise ValueError("holds half of a surrogate pair (\\ud800 to \\udfff alone), which is no letter")
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return [_texts(part) for part in value]
    if isinstance(value, dict):
        return {_texts(key): _texts(part) for key, part in value.items()}
    if isinstance(value, _Twice):
        raise ValueError(f'has the key "{value.key}" twice: leave one')
    return value
