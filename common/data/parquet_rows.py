"""Parquet: typed values, each in one stated text."""

from collections.abc import Callable, Iterator
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet, types

from common.data.raw import FileFault, Row, check_names, one_line

_Maker = Callable[[Any], Any]
_LISTS = (
    types.is_list, types.is_large_list, types.is_fixed_size_list, types.is_list_view, types.is_large_list_view,
)  # fmt: skip


def parquet_rows(path: Path) -> Iterator[Row]:
    """Numbers in their shortest form, dates and times in ISO 8601, truth values as ``true`` and ``false``.

    ``NaN`` is a gap. Bytes are read as UTF-8; those that are none (an image) are a gap too.
    """
    with parquet.ParquetFile(path) as file:
        schema = file.schema_arrow
        check_names(schema.names)
        makers = [_maker(field.type) for field in schema]
        for batch in file.iter_batches(batch_size=1000):
            try:
                columns = [
                    [_or_none(make, cell) for cell in column.to_pylist()]
                    for make, column in zip(makers, batch.columns, strict=True)
                ]
            except (ValueError, OverflowError) as error:  # a date beyond the calendar, letters that are no UTF-8
                raise FileFault(one_line(error)) from error
            except LookupError as error:  # of pytz
                raise FileFault(f"no time zone is called {one_line(error)}") from error
            for cells in zip(*columns, strict=True):
                yield dict(zip(schema.names, cells, strict=True))


def _or_none(make: _Maker, value: object) -> object:
    gap = value is None or (isinstance(value, float) and value != value)  # noqa: PLR0124 - NaN
    return None if gap else make(value)


def _maker(kind: pa.DataType) -> _Maker:
    """What makes texts of a type's values; a list or a record of them remains one."""
    if types.is_dictionary(kind):
        return _maker(kind.value_type)
    if any(is_one(kind) for is_one in _LISTS):
        part = _maker(kind.value_type)
        return lambda values: [_or_none(part, value) for value in values]
    if types.is_map(kind):
        key, item = _maker(kind.key_type), _maker(kind.item_type)
        return lambda pairs: [[_or_none(key, name), _or_none(item, value)] for name, value in pairs]
    if types.is_struct(kind):
        fields = {field.name: _maker(field.type) for field in kind}
        return lambda record: {name: _or_none(make, record[name]) for name, make in fields.items()}
    narrow = {pa.float16(): np.float16, pa.float32(): np.float32}.get(kind)  # .1 and not .10000000149
    return (lambda value: str(narrow(value))) if narrow else _scalar


def _scalar(value: object) -> str | None:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return None
    if isinstance(value, date | time):  # a datetime is a date
        return value.isoformat()
    return format(value, "f") if isinstance(value, Decimal) else str(value)
