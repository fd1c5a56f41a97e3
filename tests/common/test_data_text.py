"""Text is the text of the file: nothing is guessed from how it looks, in whichever format."""

import datetime
import gzip
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from common.config import ConfigError, DataConfig
from common.data import evaluation_examples, load_examples
from tests.support.tiny import write_jsonl

WRITTEN = [
    ["2024-05-01", "2023-12-31"],
    ["2024-05-01T10:00:00Z", "2024-02-29T00:00:00+02:00"],
    ["2024-05-01 10:00", "10:00"],
    ["007", "1.50", "1e3"],
    ["true", "NA", "None", "null", "nan"],
    [" a\tb ", "\u2028", "größe", "a\x00b", "🙂"],
]


def read(path: Path, column: str = "completion", **changes: Any) -> list[str]:
    return list(load_examples(str(path), DataConfig(**changes))[column])


def write(path: Path, texts: list[str]) -> Path:
    """The texts as prompts, as completions and as the choices of a file of the suffix's kind."""
    rows = [{"prompt": text, "completion": text} for text in texts]
    if path.suffix == ".csv":
        cells = ['"' + text.replace('"', '""') + '"' for text in texts]
        path.write_text(
            "prompt,completion\n" + "".join(f"{cell},{cell}\n" for cell in cells), encoding="utf-8", newline=""
        )
    elif path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=2), encoding="utf-8")
    else:
        write_jsonl(path, [row | {"choices": texts} for row in rows])
    return path


@pytest.mark.parametrize("texts", WRITTEN, ids=lambda texts: texts[0].strip())
@pytest.mark.parametrize(
    "name", ["own.jsonl", "own.json", "own.csv", "own.parquet", "set/train.jsonl", "set/train.csv"]
)
def test_a_text_that_looks_like_a_value_stays_as_it_is_written(tmp_path: Path, name: str, texts: list[str]) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    write(path, texts)
    rows = load_examples(str(path if path.parent == tmp_path else path.parent), DataConfig())
    assert list(rows["prompt"]) == list(rows["completion"]) == texts
    if path.suffix == ".jsonl":
        assert rows["choices"][0] == texts


@pytest.mark.parametrize(
    ("literals", "texts"),
    [
        (["5", "7"], ["5", "7"]),
        (["5.0", "0.10", "1e22", "-0", "1E400"], ["5.0", "0.10", "1e22", "-0", "1E400"]),
        (
            ["123456789012345678901234567890", "9007199254740993"],
            ["123456789012345678901234567890", "9007199254740993"],
        ),
        (["true", "false"], ["true", "false"]),
        (['"five"', "5", "true", '"2024-05-01"'], ["five", "5", "true", "2024-05-01"]),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_a_number_of_json_is_the_letters_of_the_file(
    tmp_path: Path, literals: list[str], texts: list[str], turned: bool
) -> None:
    """Also beside texts in one column, in whichever order."""
    step = -1 if turned else 1
    path = tmp_path / "own.jsonl"
    line = '{{"prompt": {0}, "completion": {0}, "choices": [{0}, "x"], "group": {0}}}\n'
    path.write_text("".join(map(line.format, literals[::step])))
    rows = load_examples(str(path), DataConfig())
    assert list(rows["prompt"]) == list(rows["completion"]) == list(rows["group"]) == texts[::step]
    assert rows["choices"][:] == [[text, "x"] for text in texts[::step]]


_SCALARS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    st.dates().map(str), st.datetimes().map(str), st.integers().map(str), st.floats().map(repr),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(_SCALARS, min_size=1, max_size=8), st.sampled_from([".jsonl", ".json", ".csv", ".parquet"]))
def test_any_texts_come_back_from_any_kind_of_file(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], suffix: str
) -> None:
    path = write(tmp_path_factory.mktemp("own") / f"own{suffix}", texts)
    assert read(path) == read(path, "prompt") == texts


def test_parquet_has_one_stated_text_for_each_of_its_types(tmp_path: Path) -> None:
    berlin = datetime.timezone(datetime.timedelta(hours=2))
    columns = {
        "1234567890123456789": pa.array([1234567890123456789]),
        "5.0": pa.array([5.0]),
        "0.1": pa.array([0.1], pa.float32()),
        "2024-05-01": pa.array([datetime.date(2024, 5, 1)]),
        "2024-05-01T10:00:00": pa.array([datetime.datetime(2024, 5, 1, 10)], pa.timestamp("us")),
        "2024-05-01T10:00:00+02:00": pa.array(
            [datetime.datetime(2024, 5, 1, 10, tzinfo=berlin)], pa.timestamp("us", "+02:00")
        ),
        "1.50": pa.array([Decimal("1.50")]),
        "true": pa.array([True]),
        "größe": pa.array(["größe".encode()], pa.binary()),
        "word": pa.array(["word"]).dictionary_encode(),
    }
    for text, column in columns.items():
        path = tmp_path / "own.parquet"
        parquet.write_table(pa.table({"prompt": column, "completion": column}), path)
        assert read(path) == [text]


def test_a_gap_of_a_parquet_file_is_no_text(tmp_path: Path) -> None:
    for number, column in enumerate((pa.array([1.0, float("nan")]), pa.array(["a", None]), pa.array([b"a", b"\xff"]))):
        path = tmp_path / f"{number}.parquet"
        parquet.write_table(pa.table({"prompt": ["a", "b"], "completion": column}), path)
        with pytest.raises(ConfigError, match=r'"completion": row 2 of .* has no text there'):
            read(path)


@pytest.mark.parametrize(
    ("raw", "texts"),
    [
        (b'\xef\xbb\xbf{"prompt":"a","completion":"x"}\n{"prompt":"b","completion":"\xc3\xbc"}', ["x", "ü"]),
        (b'{"prompt":"a","completion":"x\\r\\ny"}\r\n{"prompt":"b","completion":"y"}\r\n', ["x\r\ny", "y"]),
        (b'\n\n{"prompt":"a","completion":"x"}\n \t\n{"prompt":"b","completion":"y"}\n\n', ["x", "y"]),
        (b'{"prompt":"a","completion":"x","note":null}\n{"prompt":"b","completion":"y","other":{"a":[1]}}', ["x", "y"]),
    ],
    ids=["byte-order mark", "CRLF", "blank lines", "other columns in each row"],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".jsonl.gz"])
def test_json_is_read_however_it_is_laid_out(tmp_path: Path, raw: bytes, texts: list[str], suffix: str) -> None:
    path = tmp_path / f"own{suffix}"
    path.write_bytes(gzip.compress(raw) if suffix.endswith("gz") else raw)
    assert read(path) == texts


@pytest.mark.parametrize("suffix", [".json", ".json.gz"])
def test_a_json_file_may_be_one_array(tmp_path: Path, suffix: str) -> None:
    raw = b'\xef\xbb\xbf\n [{"prompt":"a","completion":"x"}\n, {"prompt":"b","completion":5.0 } ]\n\n'
    path = tmp_path / f"own{suffix}"
    path.write_bytes(gzip.compress(raw) if suffix.endswith("gz") else raw)
    assert read(path) == ["x", "5.0"]


def test_a_csv_file_keeps_line_ends_inside_of_a_cell_and_long_cells(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    long = "x" * 200_000
    path.write_bytes(f'\ufeffprompt,completion\r\na,"y\r\nz"\r\n\r\nb,{long}\r\n'.encode())
    assert read(path) == ["y\r\nz", long]


def test_other_columns_of_lists_and_records_are_their_json(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "own.jsonl", [{"prompt": "a", "completion": "b", "tags": ["ü", {"n": 1}]}])
    assert read(path, "tags") == ['["ü", {"n": "1"}]']


def test_a_row_without_a_message_of_its_own_says_its_prompt(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "completion": "b", "message": "hi"}, {"prompt": "c", "completion": "d"}]
    assert read(write_jsonl(tmp_path / "own.jsonl", rows), "message") == ["hi", "c"]


def test_many_rows_with_ever_other_columns_are_one_table(tmp_path: Path) -> None:
    """More than one chunk, the columns of each padded for the others."""
    rows = [{"prompt": f"p{n}", "completion": "c", f"only{n // 9000}": str(n)} for n in range(25_000)]
    found = load_examples(str(write_jsonl(tmp_path / "own.jsonl", rows)), DataConfig())
    assert len(found) == 25_000
    assert [found[n]["prompt"] for n in (0, 9_999, 10_000, 24_999)] == ["p0", "p9999", "p10000", "p24999"]
    assert found[24_999] == {"prompt": "p24999", "completion": "c", "only0": None, "only1": None, "only2": "24999"}


ROW = {"prompt": "a", "completion": "b", "choices": ["b", "c"]}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"completion": "d"}, r"row 2 has the answer 'd', which is not one of its choices \['b', 'c'\]"),
        ({"choices": "b"}, "row 2 has choices = 'b': a list of texts is needed"),
        ({"choices": ["b", None]}, r"row 2 has choices = \['b', None\]: a list of texts is needed"),
    ],
)
def test_choices_without_the_answer_are_refused_wherever_they_stand(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    path = str(write_jsonl(tmp_path / "rows.jsonl", [ROW, ROW | changes]))
    with pytest.raises(ConfigError, match=f'data.name = ".*rows.jsonl": {said}'):
        load_examples(path, DataConfig())
    with pytest.raises(ConfigError, match=f'data.evaluation = ".*rows.jsonl": {said}'):
        evaluation_examples(DataConfig(evaluation=path), 1)


def test_held_out_rows_have_choices_all_or_none(tmp_path: Path) -> None:
    path = str(write_jsonl(tmp_path / "rows.jsonl", [ROW, {"prompt": "a", "completion": "b"}]))
    with pytest.raises(ConfigError, match=r'data.evaluation = ".*": row 2 has no choices, though others have'):
        evaluation_examples(DataConfig(evaluation=path), 1)
    assert load_examples(path, DataConfig())["choices"][:] == [["b", "c"], None]


def test_a_held_out_row_has_choices_to_choose_between(tmp_path: Path) -> None:
    """With one of them every model is right."""
    path = str(write_jsonl(tmp_path / "rows.jsonl", [ROW, ROW | {"choices": ["b", "b"]}]))
    with pytest.raises(ConfigError, match=r"row 2 has choices = \['b', 'b'\]: give it two different texts"):
        evaluation_examples(DataConfig(evaluation=path), 1)
