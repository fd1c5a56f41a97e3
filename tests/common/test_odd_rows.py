"""A value of another type anywhere in a row: a model learns nothing of it, and no word about it is Python's."""

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.config import ConfigError, DataConfig
from common.data import FORMATS, load_examples
from tests.support.example_rows import records
from tests.support.tiny import write_jsonl

ODD: tuple[Any, ...] = (None, ["odd"], {"odd": "odd"}, [], {}, [None])
PYTHONS = re.compile(r"zip\(|indices|NoneType|iterable|unpack|attribute|object is|argument|expected|index out|hashable")
FREE = {("alpaca", "text"), ("ceval", "id"), ("ceval", "explanation"), ("dialogsum", "id"), ("dialogsum", "topic")}
ASKS = [
    ("dolly", "instruction"), ("mmlu", "question"), ("ceval", "question"), ("ceval", "B"),
    ("e2e", "meaning_representation"), ("dialogsum", "dialogue"),
]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in a row: in it, in its lists and in its records."""
    if path:
        yield path
    if isinstance(value, list | dict):
        for key in range(len(value)) if isinstance(value, list) else list(value):
            yield from places(value[key], (*path, key))


def changed(row: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    found: Any = copy.deepcopy(row)
    where = found
    for key in path[:-1]:
        where = where[key]
    where[path[-1]] = value
    return found  # type: ignore[no-any-return]


def read(name: str, file: Path) -> tuple[str, str]:
    """What is learned and scored by, or why nothing is."""
    try:
        rows = load_examples(str(file), DataConfig.model_validate({"format": name}))
    except ConfigError as error:
        return "", str(error)
    return json.dumps([[row.get(key) for key in ("prompt", "completion", "group")] for row in rows]), ""


CASES = [
    pytest.param(name, path, value, id=f"{name}-{'.'.join(map(str, path))}-{json.dumps(value)}")
    for name in FORMATS
    for path in places(records(name)[0])
    if (name, path[0]) not in FREE
    for value in ODD
]


@pytest.mark.parametrize(("name", "path", "value"), CASES)
def test_what_is_no_text_is_refused_in_plain_words_or_not_read(
    name: str, path: tuple[Any, ...], value: Any, tmp_path: Path
) -> None:
    good, *_ = records(name)
    learned, said = read(name, write_jsonl(tmp_path / "own.jsonl", [good, changed(good, path, value)]))
    assert "odd" not in learned
    assert "None" not in learned
    assert not PYTHONS.search(said)
    assert bool(learned) != ("row 2" in said)


@pytest.mark.parametrize(("name", "column"), ASKS)
@pytest.mark.parametrize("gap", ["null", "none", "blank"])
def test_a_row_that_asks_nothing_is_refused(name: str, column: str, gap: str, tmp_path: Path) -> None:
    good, *_ = records(name)
    row = {key: value for key, value in good.items() if key != column}
    if gap != "none":
        row[column] = None if gap == "null" else " "
    if (column, gap) == ("B", "blank"):  # an option may be a blank
        return
    with pytest.raises(ConfigError, match=f"row 2 .*{column} has no text; fill it or drop the row"):
        load_examples(
            str(write_jsonl(tmp_path / "own.jsonl", [good, row])), DataConfig.model_validate({"format": name})
        )


def test_an_instruction_may_stand_in_either_column_of_alpaca(tmp_path: Path) -> None:
    good, *_ = records("alpaca")
    rows = [good | {"instruction": ""}, good | {"input": None}]
    assert len(load_examples(str(write_jsonl(tmp_path / "own.jsonl", rows)), DataConfig(format="alpaca"))) == 2
    file = write_jsonl(tmp_path / "none.jsonl", [good | {"instruction": "", "input": ""}])
    with pytest.raises(ConfigError, match="instruction and input have no text"):
        load_examples(str(file), DataConfig(format="alpaca"))
