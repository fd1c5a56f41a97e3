"""Files that cannot be used are refused in one line with the place and the true reason."""

from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from common.config import ConfigError, DataConfig
from common.data import evaluation_examples, load_examples

GOOD = b'{"prompt":"a","completion":"x"}\n'
DEEP = b'{"prompt":"a","completion":"x","note":' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"
FAULTS: list[tuple[str, bytes, str]] = [
    ("a.jsonl", GOOD + '{"prompt":"Straße"}\n'.encode("latin-1"), "line 2 is not UTF-8: byte 47 .* is 0xdf. .*iconv"),
    ("b.json", b"\n[" + GOOD + b',{"prompt":"\xdf"}]', "line 3 is not UTF-8: byte 46 .* is 0xdf"),
    ("a.csv", "prompt,completion\na,x\nStraße,y\n".encode("latin-1"), "line 3 is not UTF-8: byte 26 .* is 0xdf"),
    ("b.csv", "größe,completion\na,x\n".encode("latin-1"), "line 1 is not UTF-8: byte 2 "),
    ("bom.jsonl", b"\xef\xbb\xbf" + '{"prompt":"ß"}\n'.encode("latin-1"), "line 1 is not UTF-8: byte 14 "),
    ("c.jsonl", GOOD.decode().encode("utf-16"), "the file is UTF-16: save it as UTF-8"),
    ("c.csv", "prompt,completion\n".encode("utf-16"), "the file is UTF-16: save it as UTF-8"),
    ("d.jsonl", b'{"prompt":"a","completion":"x","completion":"y"}\n', 'line 1 has the key "completion" twice'),
    ("e.jsonl", GOOD + b'{"prompt":"a","note":{"x":1,"x":2}}\n', 'line 2 has the key "x" twice'),
    ("d.csv", b"prompt,completion,completion\na,x,z\n", '2 columns are called "completion"'),
    ("e.csv", b"prompt,completion\na,x\nb\n", "line 3 ends a row of 1 cells; the header has 2"),
    ("f.csv", b"prompt,completion\na,x,y\n", "line 2 ends a row of 3 cells; the header has 2"),
    ("g.csv", b'prompt,completion\na,"x\n', "line 2 is not CSV: unexpected end of data"),
    ("f.jsonl", b'{"prompt":"\\ud83d","completion":"x"}\n', "line 1 holds half of a surrogate pair"),
    ("g.jsonl", GOOD + b"\n[1]\n", "line 3 is no JSON object"),
    ("s.jsonl", b"[" + GOOD.strip() + b"]\n", "line 1 is no JSON object.*; call a file of one array .json"),
    ("t.json", b"1\n", "line 1 is no JSON object"),
    ("h.jsonl", b'{"prompt":\n"a"}\n', "line 1 is not JSON: Expecting value"),
    ("i.jsonl", GOOD.strip() + GOOD, "line 1 is not JSON: more text after the object, at column 32"),
    ("j.jsonl", DEEP, "line 1 is nested too deeply"),
    ("k.json", b"[" + DEEP + b"]", "element 1 is nested too deeply"),
    ("l.json", b"[" + GOOD, "line 2 is not JSON: one array of objects is needed, then nothing"),
    ("m.json", b"[" + GOOD + b"] x", "line 2 is not JSON: one array of objects is needed, then nothing"),
    ("n.json", b"[1]", "element 1 is no JSON object"),
    ("o.json", b" [ ]", "the file has no rows"),
    ("p.jsonl", b"\n \n", "the file has no rows"),
    ("q.jsonl.gz", GOOD, "Not a gzipped file"),
    ("r.parquet", GOOD, "Parquet"),
]


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
        ("own.jsonl", '{"messages": [{"role": "user", "content": "a"}]}', r"Chats \(messages\) are not read"),
        ("own.jsonl", '{"dialogue": "a", "summary": "b"}', 'the columns of data.format = "dialogsum"'),
        ("own.jsonl", '{"ask": "a", "answer": "b"}', "which has ask, answer$"),
    ],
)
def test_columns_that_are_not_there_bring_the_likely_remedy(tmp_path: Path, name: str, text: str, said: str) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=f"not a column of .*{said}"):
        load_examples(str(path), DataConfig())


def test_the_columns_of_another_format_are_told(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text('{"dialogue": "a", "summary": "b"}', encoding="utf-8")
    with pytest.raises(ConfigError, match=r'These are the columns of data.format = "dialogsum"$'):
        load_examples(str(path), DataConfig(format="e2e"))


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
