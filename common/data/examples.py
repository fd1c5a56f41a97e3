"""One row of a source as examples: the texts to ask with, to learn and to choose from, or why there are none."""

import json
from collections.abc import Iterator, Mapping

from common.config import DataConfig
from common.data.formats import FORMATS
from common.data.raw import Row
from common.data.table import CHOICES, MESSAGES


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
        prompts = dict.fromkeys(data.prompt_columns, f'data.prompt-column = "{data.prompt_column}"')
        return prompts | {data.completion_column: f'data.completion-column = "{data.completion_column}"'}
    return dict.fromkeys(FORMATS[data.format].columns, f'data.format = "{data.format}"')


def made_columns(data: DataConfig) -> tuple[str, ...]:
    """The columns that every example has, those of a named format or the configured two."""
    if data.format == "columns":
        return data.prompt_column, data.completion_column
    layout = FORMATS[data.format]
    return (
        "prompt", "completion", "message", *(["group"] if layout.grouped else []),
        *([CHOICES] if layout.multiple_choice else []), *([MESSAGES] if layout.chat else []),
    )  # fmt: skip


def examples_of(row: Row, data: DataConfig) -> Iterator[Mapping[str, object]]:
    """The examples of a row, other columns kept as they are; a row without an answer has none. Raises ``RowError``."""
    if data.format == "columns":
        yield _as_it_is(row, data)
        return
    layout, made = FORMATS[data.format], made_columns(data)
    row = layout.renamed(row)
    kept = _others(row, {*layout.columns, *made, CHOICES})
    try:
        for example in layout.examples({**dict.fromkeys(layout.columns), **row}):
            yield {**kept, **{key: getattr(example, key) for key in made}}
    except (ValueError, KeyError, TypeError) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise RowError(f": {reason}", f'data.format = "{data.format}"') from error


def _as_it_is(row: Row, data: DataConfig) -> dict[str, object]:
    """The configured columns, which must have something to ask with and to learn; several of a prompt become one."""
    settings = needed_columns(data)
    for column, setting in settings.items():
        if isinstance(row.get(column), list | dict):
            raise RowError(" holds lists or records there; text is needed", setting)
    prompt = _joined([row.get(column) for column in data.prompt_columns])
    example: dict[str, object] = {data.prompt_column: prompt, data.completion_column: row.get(data.completion_column)}
    for column, text in example.items():
        if text is None or (column == data.completion_column and not text):
            setting = settings[data.completion_column if column == data.completion_column else data.prompt_columns[0]]
            raise RowError(" has no text there; fill it or drop the row", setting)
    taken = {*settings, data.prompt_column, CHOICES}
    choices = row.get(CHOICES) if CHOICES not in settings else None
    if choices is not None:
        example[CHOICES] = _checked_choices(choices, str(example[data.completion_column]))
    return example | _others(row, taken)


def _joined(parts: list[str | None]) -> str | None:
    """One column as it is; of several those with text, a blank line between them (Alpaca's input may be empty)."""
    if len(parts) == 1:
        return parts[0]
    return "\n\n".join(part for part in parts if part) or None


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
