"""Files of examples: columns, cells, and what is refused."""

from pathlib import Path
from typing import Any

import pytest

from common.config import ConfigError, DataConfig
from common.data import IGNORED, TokenizedExamples, evaluation_examples, load_examples, private_tokens
from tests.support.example_rows import MAPPED, TOKENIZER, words
from tests.support.tiny import write_jsonl


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("own.csv", "ask,say\nwhat is the sum of 1 and 1 ?, answer\nwhat is the sum of ?, which\n"),
        (
            "own.jsonl",
            '{"ask": "the sum of 1 and 1", "say": " answer"}\n{"ask": "the sum of 1 and 2", "say": " which"}\n',
        ),
    ],
)
def test_a_sites_own_file_is_read_with_its_own_column_names(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    tokens = private_tokens(MAPPED, TOKENIZER, 3, 7, 1, str(path))
    assert isinstance(tokens, TokenizedExamples)
    assert [words(row[row != IGNORED]) for row in tokens.labels] == [["answer", "</s>"], ["which", "</s>"]], (
        "the whole file, not a partition"
    )


@pytest.mark.parametrize("key", ["prompt-column", "completion-column"])
def test_a_missing_column_is_refused_with_those_that_exist(sorted_file: str, key: str) -> None:
    data = DataConfig(**{key: "text"})
    with pytest.raises(ConfigError, match=rf'data.{key} = "text": not a column of .*prompt, completion, group'):
        load_examples(sorted_file, data)


@pytest.mark.parametrize(("value", "text"), [(2, "2"), (2.5, "2.5"), (True, "true")])
def test_a_column_of_scalars_is_read_as_text(tmp_path: Path, value: object, text: str) -> None:
    row = {"ask": value, "say": value, "choices": [value, value]}
    rows = load_examples(str(write_jsonl(tmp_path / "scalars.jsonl", [row])), MAPPED)
    assert rows.to_list() == [{"ask": text, "say": text, "choices": [text, text]}]


def test_a_column_of_lists_is_refused(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "lists.jsonl", [{"ask": "the sum", "say": ["2"]}])
    with pytest.raises(ConfigError, match=r'data.completion-column = "say": row 1 of .* holds lists'):
        load_examples(str(path), MAPPED)


def test_a_cell_of_a_csv_is_the_text_that_is_written_there(tmp_path: Path) -> None:
    """pandas would make 7 of 007, 1.0 of 1 beside an empty cell, and nothing of None, NA and null."""
    path = tmp_path / "own.csv"
    path.write_text("ask,say,note\n007,None,1\nNA,null,\n1.50,True,x\n")
    rows = load_examples(str(path), MAPPED)
    assert rows.to_list() == [
        {"ask": "007", "say": "None", "note": "1"},
        {"ask": "NA", "say": "null", "note": None},
        {"ask": "1.50", "say": "True", "note": "x"},
    ]


def test_an_empty_cell_of_a_csv_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("ask,say\nwhich,\n")
    with pytest.raises(ConfigError, match=r'data.completion-column = "say": row 1 of .* has no text there'):
        load_examples(str(path), MAPPED)


def test_a_missing_file_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent.jsonl.*could not be read"):
        load_examples(str(tmp_path / "absent.jsonl"), DataConfig())


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.csv"
    path.write_text("ask,say\n")
    with pytest.raises(ConfigError, match="could not be read as examples: the file has no rows"):
        load_examples(str(path), MAPPED)


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("empty.jsonl", "", "the file is empty"),
        (
            "broken.jsonl",
            '{"prompt": "a", "completion": "b"}\n{nonsense',
            "line 2 is not JSON: Expecting .* at column 2",
        ),
        ("empty.csv", "", "the file is empty"),
    ],
)
def test_an_empty_or_broken_file_is_refused_with_the_cause(tmp_path: Path, name: str, text: str, reason: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"{name}.*could not be read.*{reason}"):
        load_examples(str(path), DataConfig())


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"prompt": "c", "completion": ""}, r'data.completion-column = "completion": row 2 of .* has no text'),
        ({"prompt": "c", "completion": None}, r'data.completion-column = "completion": row 2 of .* has no text'),
        ({"prompt": None, "completion": "d"}, r'data.prompt-column = "prompt": row 2 of .* has no text'),
    ],
)
def test_a_row_without_text_is_refused_by_its_number(tmp_path: Path, bad: dict[str, Any], said: str) -> None:
    path = str(write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "a", "completion": "b"}, bad]))
    with pytest.raises(ConfigError, match=said):
        load_examples(path, DataConfig())


def test_an_answer_that_is_no_choice_is_refused_by_its_row(tmp_path: Path) -> None:
    good = {"prompt": "a", "completion": "b", "choices": ["b", "c"]}
    path = str(write_jsonl(tmp_path / "rows.jsonl", [good, good | {"completion": "d"}]))
    with pytest.raises(ConfigError, match=r"row 2 has the answer 'd', which is not one of its choices \['b', 'c'\]"):
        evaluation_examples(DataConfig(evaluation=path), 1)
