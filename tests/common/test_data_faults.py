"""Files that cannot be used are refused in one line with the place and the true reason."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from common.config import ConfigError, DataConfig
from common.data import evaluation_examples, load_examples
from common.data.sources import load_site_examples
from tests.support.data_faults import FAULTS, GOOD


@pytest.mark.parametrize(("name", "raw", "said"), FAULTS, ids=[name for name, _, _ in FAULTS])
def test_an_odd_file_is_refused_with_the_place_and_the_reason(tmp_path: Path, name: str, raw: bytes, said: str) -> None:
    path = tmp_path / name
    path.write_bytes(raw)
    reason = f'".*{name}": could not be read as examples: .*{said}'
    with pytest.raises(ConfigError, match=f"^data.name = {reason}") as refusal:
        load_examples(str(path), DataConfig())
    assert "\n" not in str(refusal.value)
    with pytest.raises(ConfigError, match=f"^data.evaluation = {reason}"):
        evaluation_examples(DataConfig(evaluation=str(path)), 1)


def test_a_parquet_file_with_a_column_twice_is_refused(tmp_path: Path) -> None:
    table = pa.table([pa.array(["a"])] * 3, names=["prompt", "completion", "prompt"])
    parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match='2 columns are called "prompt"'):
        load_examples(str(tmp_path / "a.parquet"), DataConfig())


def test_a_parquet_file_with_a_time_zone_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    times = pa.array([0], pa.timestamp("us", "Mars/Base"))
    parquet.write_table(pa.table({"prompt": ["a"], "completion": times}), tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match="no time zone is called 'Mars/Base'"):
        load_examples(str(tmp_path / "a.parquet"), DataConfig())


@pytest.mark.parametrize("kind", [pa.list_, pa.large_list, pa.list_view, pa.large_list_view])
def test_a_list_of_a_parquet_file_is_no_text_however_it_is_laid_out(tmp_path: Path, kind: Any) -> None:
    lists = pa.array([["a"]], kind(pa.string()))
    parquet.write_table(pa.table({"prompt": ["a"], "completion": lists}), tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match=r"row 1 of .* holds lists"):
        load_examples(str(tmp_path / "a.parquet"), DataConfig())


def test_a_wrapped_array_is_refused_with_what_it_has(tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    path.write_bytes(b'{"data": [' + GOOD.strip() + b"]}")
    with pytest.raises(ConfigError, match=r'data.prompt-column = "prompt": not a column of .*, which has data'):
        load_examples(str(path), DataConfig())


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("own.csv", "prompt;completion\na;b\n", "parted by semicolons: save it with commas"),
        ("own.csv", "prompt\tcompletion\na\tb\n", "parted by tabs: save it with commas or as .tsv"),
        ("own.json", '{"data": [{"prompt": "a", "completion": "b"}]}', "A .json file is one array of objects"),
        (
            "own.jsonl",
            '{"messages": [{"role": "user", "content": "a"}]}',
            r'These are the columns of data.format = "chat"',
        ),
        ("own.jsonl", '{"conversations": [{"from": "human", "value": "a"}]}', r'columns of data.format = "chat"'),
        ("own.jsonl", '{"text": "a"}', r'columns of data.format = "text"'),
        ("own.jsonl", '{"text": "a", "dialogue": "b", "summary": "c"}', 'columns of data.format = "dialogsum"'),
        ("own.jsonl", '{"prompt": "a", "chosen": "b", "rejected": "c"}', r"Pairs to prefer one text of \(DPO\)"),
        ("own.jsonl", '{"question": "a", "answer": "b"}', 'data.prompt-column = "question" and .* = "answer"$'),
        ("own.jsonl", '{"dialogue": "a", "summary": "b"}', 'the columns of data.format = "dialogsum"'),
        ("own.jsonl", '{"ask": "a", "answer": "b"}', "which has ask, answer$"),
        ("own.jsonl", '{"ask, say": "a", "answer": "b"}', 'which has "ask, say", answer$'),
    ],
)
def test_columns_that_are_not_there_bring_the_likely_remedy(tmp_path: Path, name: str, text: str, said: str) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=f"not a column of .*{said}"):
        load_examples(str(path), DataConfig())


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "own.csv",
            "prompt;completion;dose\na;b;0,5\n",
            "row of 2 cells; the header has 1. Its cells are parted by semico",
        ),
        ("own.csv", '"prompt";"completion"\n"a";"b"\n', "line 1 is not CSV: .* Its cells are parted by semicolons"),
        ("own.csv", 'prompt;completion\n"a";"b"\n', "line 2 is not CSV: .* Its cells are parted by semicolons"),
        ("own.csv", "prompt\tcompletion\na\tb, c\n", "the header has 1. Its cells are parted by tabs: .* or as .tsv$"),
        (
            "own.csv",
            "prompt,completion\na,b, c\n",
            "row of 3 cells; the header has 2. A cell with a comma in it needs quotes$",
        ),
        ("own.tsv", "prompt\tcompletion\na\tb\tc\n", "the header has 2. A cell with a tab in it needs quotes$"),
        ("own.csv", "prompt,completion\na\n", "line 2 ends a row of 1 cell; the header has 2$"),
    ],
)
def test_a_row_that_its_delimiter_parts_wrongly_brings_the_likely_remedy(
    tmp_path: Path, name: str, text: str, said: str
) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=said):
        load_examples(str(path), DataConfig())


def test_the_columns_of_another_format_are_told(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text('{"dialogue": "a", "summary": "b"}', encoding="utf-8")
    with pytest.raises(ConfigError, match=r'These are the columns of data.format = "dialogsum"$'):
        load_examples(str(path), DataConfig(format="e2e"))


def test_columns_of_no_format_bring_the_format_that_reads_any(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text('{"question": "a", "answer": "b"}', encoding="utf-8")
    said = r'lacks text; .*\. Try data.format = "columns" with data.prompt-column = "question" and .* = "answer"$'
    with pytest.raises(ConfigError, match=said):
        load_examples(str(path), DataConfig(format="text"))


def test_json_that_is_cut_off_is_told_once_where(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text('{"prompt": "a', encoding="utf-8")
    with pytest.raises(ConfigError, match="line 1 is not JSON: Unterminated string starting at column 12"):
        load_examples(str(path), DataConfig())


def test_a_key_that_some_rows_lack_is_refused_by_the_row(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_bytes(b'{"prompt":"a"}\n' + GOOD)
    with pytest.raises(ConfigError, match=r'"completion": row 1 of .* has no text there'):
        load_examples(str(path), DataConfig())


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_what_json_has_not_is_a_gap(tmp_path: Path, value: str) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text(f'{{"prompt":"a","completion":"b","note":{value}}}\n{{"prompt":"a","completion":{value}}}\n')
    with pytest.raises(ConfigError, match=r'"completion": row 2 of .* has no text there'):
        load_examples(str(path), DataConfig())


def test_a_sites_row_brings_no_columns_of_its_own(tmp_path: Path) -> None:
    """One row with a thousand further keys took 4 s, since each became a column of all rows; a client needs none."""
    rows = [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d", "message": "e", "x": "f"}]
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert set(load_site_examples(str(path), DataConfig()).column_names) == {"prompt", "completion", "message"}
    assert "x" in load_examples(str(path), DataConfig()).column_names
