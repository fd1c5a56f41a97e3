"""A site's own rows: what cannot be used is left out, nothing is raised, and no copy is written."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.config import ConfigError, DataConfig
from common.data import FORMATS, load_examples, private_examples, private_tokens, sets
from common.demo.model import load_tokenizer
from tests.support.data_faults import FAULTS
from tests.support.example_rows import RECORDS
from tests.support.tiny import write_jsonl

GOOD = {"prompt": "good", "completion": "x"}
BAD: dict[str, bytes] = {
    "null prompt": b'{"prompt":null,"completion":"x"}',
    "no prompt": b'{"completion":"x"}',
    "null completion": b'{"prompt":"a","completion":null}',
    "empty completion": b'{"prompt":"a","completion":""}',
    "record": b'{"prompt":"a","completion":{"text":"x"}}',
    "list": b'{"prompt":["a"],"completion":"x"}',
    "answer not in choices": b'{"prompt":"a","completion":"x","choices":["y"]}',
    "choices that are none": b'{"prompt":"a","completion":"x","choices":[null,"x"]}',
    "torn": b'{"prompt":"a","completion":"x',
    "not an object": b'["a","x"]',
    "twice": b'{"prompt":"a","completion":"x","prompt":"b"}',
    "latin-1": '{"prompt":"Straße","completion":"x"}'.encode("latin-1"),
    "half a pair": b'{"prompt":"\\ud83d","completion":"x"}',
    "deep": b'{"prompt":"a","completion":"x","n":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "nan": b'{"prompt":"a","completion":NaN}',
}


def own_rows(path: Path, **changes: Any) -> list[str]:
    return list(private_examples(DataConfig(**changes), 0, 1, 1, str(path))["prompt"])


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_row_that_cannot_be_used_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, bad: str, place: int
) -> None:
    lines = [json.dumps(GOOD | {"prompt": name}).encode() for name in ("first", "second")]
    lines.insert(place, BAD[bad])
    path = tmp_path / "own.jsonl"
    path.write_bytes(b"\n".join(lines))
    with caplog.at_level(logging.WARNING, "common.data.sources"):
        assert own_rows(path) == ["first", "second"]
    assert caplog.messages == ["the site's data: 1 of 3 rows cannot be used and are left out"]


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("own.csv", b'prompt,completion\nfirst,x\nStra\xdfe,y\nb\n"c"d,x\n,x\nsecond,x\n'),
        ("own.json", b'[{"prompt":"first","completion":"x"},{"prompt":"\xdf"},1,{"prompt":"second","completion":"x"}]'),
        ("torn.json", b'[{"prompt":"first","completion":"x"},{"prompt":"second","completion":"x"},{"pro'),
    ],
)
def test_rows_around_bad_ones_are_used_in_every_kind_of_file(tmp_path: Path, name: str, raw: bytes) -> None:
    (tmp_path / name).write_bytes(raw)
    assert own_rows(tmp_path / name) == ["first", "second"]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("value", [None, 5, "5", [], ["x"], {"a": 1}, [{"a": [1]}]], ids=repr)
def test_a_row_of_a_named_format_that_cannot_be_read_is_left_out(tmp_path: Path, name: str, value: object) -> None:
    records = [json.loads(line) for line in (RECORDS / f"{name}.jsonl").read_text().splitlines()]
    good = own_rows(write_jsonl(tmp_path / "good.jsonl", records), format=name)
    assert good
    for column in FORMATS[name].columns:
        for bad in (records[0] | {column: value}, {key: cell for key, cell in records[0].items() if key != column}):
            found = own_rows(write_jsonl(tmp_path / "own.jsonl", [*records, bad]), format=name)
            assert found[: len(good)] == good


def unreadable(folder: Path) -> list[Path]:
    """Paths that hold no rows, each in another way."""
    paths = [folder / name for name, _, _ in FAULTS]
    for path, (_, raw, _) in zip(paths, FAULTS, strict=True):
        path.write_bytes(raw)
    (folder / "empty").mkdir()
    (folder / "folder.jsonl").mkdir()
    (folder / "loop.jsonl").symlink_to(folder / "loop.jsonl")
    columns = write_jsonl(folder / "other-columns.jsonl", [{"ask": "a", "say": "b"}])
    return [*paths, columns, folder / "absent.jsonl", folder / "absent", folder / "empty", folder / "folder.jsonl",
            folder / "loop.jsonl"]  # fmt: skip


@pytest.mark.parametrize("layout", ["columns", *FORMATS])
def test_a_file_without_a_usable_row_is_a_data_set_without_rows(tmp_path: Path, layout: str) -> None:
    data = DataConfig(format=layout)
    for path in unreadable(tmp_path):
        rows = private_examples(data, 0, 1, 1, str(path))
        assert {"prompt", "completion"} <= set(rows.column_names), path.name
        assert set(rows["prompt"]) <= {"a"}, path.name
    assert len(private_examples(DataConfig(), 0, 1, 1, str(tmp_path / "absent.jsonl"))) == 0


def test_a_name_that_no_file_can_have_is_one_without_rows_and_refused_elsewhere() -> None:
    name = "a" * 300 + ".jsonl"
    assert own_rows(Path(name)) == []
    with pytest.raises(ConfigError, match=r"^data.name = .*: File name too long$"):
        load_examples(name, DataConfig())


@pytest.mark.parametrize("name", ["ward7/patients", "patients", "squad"])
def test_a_sites_path_is_never_asked_for_at_a_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    asked: list[object] = []
    monkeypatch.setattr(sets, "load_dataset_builder", lambda *given, **_: asked.append(given))
    monkeypatch.chdir(tmp_path)
    assert len(private_examples(DataConfig(), 0, 1, 1, name)) == 0
    assert not asked


@settings(max_examples=80, deadline=None)
@given(raw=st.binary(max_size=200), suffix=st.sampled_from([".jsonl", ".json", ".csv", ".parquet", ".jsonl.gz"]))
def test_no_bytes_whatever_make_reading_fail(tmp_path_factory: pytest.TempPathFactory, raw: bytes, suffix: str) -> None:
    path = tmp_path_factory.mktemp("own") / f"own{suffix}"
    path.write_bytes(raw)
    own_rows(path)


_WORDS = [b"{", b"}", b"[", b"]", b",", b":", b'"prompt"', b'"completion"', b'"', b"1", b"\\u", b"\n", b"\xff"]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(_WORDS), max_size=20).map(b"".join), st.sampled_from([".jsonl", ".json", ".csv"]))
def test_no_pieces_of_a_file_make_reading_fail(
    tmp_path_factory: pytest.TempPathFactory, raw: bytes, suffix: str
) -> None:
    path = tmp_path_factory.mktemp("own") / f"own{suffix}"
    path.write_bytes(b'{"prompt": "a", "completion": "b"}\n' + raw)
    own_rows(path)


def test_the_log_of_a_site_says_nothing_of_a_row(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        own_rows(write_jsonl(tmp_path / "own.jsonl", [GOOD, {"prompt": "p", "completion": "secret", "choices": []}]))
        (tmp_path / "torn.json").write_text('[{"prompt": "secret"')
        own_rows(tmp_path / "torn.json")
        own_rows(write_jsonl(tmp_path / "mmlu.jsonl", [{"answer": "secret"}]), format="mmlu")
    assert "left out" in caplog.text
    assert "secret" not in caplog.text


_READ = """
import sys
from common.config import ConfigError, DataConfig
from common.data import private_examples, private_tokens
from common.demo.model import load_tokenizer
for path in sys.argv[1:]:
    assert len(private_examples(DataConfig(), 0, 1, 1, path)) == 2
    assert len(private_tokens(DataConfig(), load_tokenizer(), 0, 1, 1, path)) == 2
"""


def test_private_rows_leave_no_copy_behind(tmp_path: Path) -> None:
    """Neither in the cache of ``datasets`` nor among the temporary files."""
    question = "the sum of 4711 and 4712"
    rows = [{"prompt": question, "completion": " answer"}, {"prompt": question + "!", "completion": " which"}]
    own = write_jsonl(tmp_path / "own.jsonl", rows)
    (tmp_path / "set").mkdir()
    write_jsonl(tmp_path / "set" / "train.jsonl", rows)
    places = {name: tmp_path / name.lower() for name in ("HF_HOME", "TMPDIR", "XDG_CACHE_HOME", "HOME")}
    for place in places.values():
        place.mkdir()
    environment = os.environ | {name: str(place) for name, place in places.items()} | {"PYTHONPATH": str(Path.cwd())}
    environment = {key: value for key, value in environment.items() if key not in {"HF_DATASETS_CACHE", "HF_HUB_CACHE"}}
    subprocess.run(
        [sys.executable, "-c", _READ, str(own), str(tmp_path / "set")], env=environment, cwd=tmp_path, check=True
    )
    left = [file for place in places.values() for file in place.rglob("*") if file.is_file()]
    assert not [file for file in left if question.encode() in file.read_bytes()]
    assert not [file for file in left if file.is_relative_to(places["TMPDIR"])], "an empty folder of torch's is none"


def test_public_rows_are_not_read_with_such_patience(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "own.jsonl", [GOOD, {"prompt": "a", "completion": ""}])
    assert own_rows(path) == ["good"]
    with pytest.raises(ValueError, match="row 2"):
        load_examples(str(path), DataConfig())


def test_a_row_that_gives_nothing_to_learn_is_left_out_at_a_site_and_an_error_elsewhere(tmp_path: Path) -> None:
    """White space is text, so the row is read, but this tokenizer makes no token of it."""
    rows = [{"prompt": "what is 2", "completion": " red"}, {"prompt": "what is 2", "completion": " \n "}]
    path, tokenizer = write_jsonl(tmp_path / "site.jsonl", rows), load_tokenizer()
    data = DataConfig(append_eos=False)
    assert len(private_tokens(data, tokenizer, 0, 1, 1, str(path))) == 1
    with pytest.raises(ConfigError, match="example 2 has nothing to learn"):
        private_tokens(DataConfig(name=str(path), partitioner="iid", append_eos=False), tokenizer, 0, 1, 1)
