"""One row of a source as examples: the texts to ask with, to learn and to choose from, or why there are none."""

import json
from collections.abc import Iterator, Mapping

from common.config import DataConfig
from common.data.formats import FORMATS
from common.data.raw import Row
from common.data.table import CHOICES


class RowError(ValueError):
    """What is wrong with a row, to be said after its number.

    ``setting`` is the key and value by which it is wrong, or ``""`` for those that name the data.
    """

    def __init__(self, problem: str, setting: str = "") -> None:
        super().__init__(problem)
        self.setting = setting


def needed_columns(data: DataConfig) -> dict[str, str]:
    """The columns that rows must have, each with the setting that says so."""
    if data.format == "columns":
        keys = (("prompt-column", data.prompt_column), ("completion-column", data.completion_column))
        return {column: f'data.{key} = "{column}"' for key, column in keys}
    return dict.fromkeys(FORMATS[data.format].columns, f'data.format = "{data.format}"')


def made_columns(data: DataConfig) -> tuple[str, ...]:
    """The columns that every example has, those of a named format or the configured two."""
    if data.format == "columns":
        return data.prompt_column, data.completion_column
    layout = FORMATS[data.format]
    return (
        "prompt", "completion", "message", *(["group"] if layout.grouped else []),
        *([CHOICES] if layout.multiple_choice else []),
    )  # fmt: skip


def examples_of(row: Row, data: DataConfig) -> Iterator[Mapping[str, object]]:
    """The examples of a row, other columns kept as they are; a row without an answer has none. Raises ``RowError``."""
    if data.format == "columns":
        yield _as_it_is(row, data)
        return
    layout, made = FORMATS[data.format], made_columns(data)
    kept = _others(row, {*layout.columns, *made})
    try:
        for example in layout.examples({**dict.fromkeys(layout.columns), **row}):
            yield {**kept, **{key: getattr(example, key) for key in made}}
    except (ValueError, KeyError, TypeError) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise RowError(f": {reason}", f'data.format = "{data.format}"') from error


def _as_it_is(row: Row, data: DataConfig) -> dict[str, object]:
    """The configured columns, which must have something to ask with and to learn."""
    example: dict[str, object] = {}
    for column, setting in needed_columns(data).items():
        text = row.get(column)
        if isinstance(text, list | dict):
            raise RowError(" holds lists or records there; text is needed", setting)
        if text is None or (column == data.completion_column and not text):
            raise RowError(" has no text there; fill it or drop the row", setting)
        example[column] = text
    choices = row.get(CHOICES) if CHOICES not in example else None
    if choices is not None:
        example[CHOICES] = _checked_choices(choices, str(example[data.completion_column]))
    return example | _others(row, {*example, CHOICES})


def _checked_choices(choices: object, answer: str) -> list[str]:
    if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
        raise RowError(f" has {CHOICES} = {choices!r}: a list of texts is needed, or no column of that name")
    if answer not in choices:
        raise RowError(f" has the answer {answer!r}, which is not one of its choices {choices!r}")
    return choices


def _others(row: Row, taken: set[str]) -> dict[str, str | None]:
    """Columns to part clients or to group scores by; a list or a record becomes its JSON."""
    return {
        key: json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value
        for key, value in row.items()
        if key not in taken
    }
