"""The name of a file or a folder is a name: never a pattern that finds others."""

import gzip
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from datasets import DatasetBuilder, load_dataset_builder
from datasets.data_files import DataFilesDict
from pyarrow import parquet

from common.config import ConfigError, DataConfig
from common.data import evaluation_examples, load_examples, private_examples, sets
from tests.support.tiny import write_jsonl

ODD = ["site[1]", "q*", "who?", "train [v2]", "größe ü", "a{b,c}", "!x", "[private] **", "%41", "a#b"]
READERS = {
    "data.name": lambda path: load_examples(path, DataConfig()),
    "data.evaluation": lambda path: evaluation_examples(DataConfig(evaluation=path), 1),
    "data-path": lambda path: private_examples(DataConfig(), 0, 1, 1, path),
}


def write(path: Path, text: str) -> None:
    rows = [{"prompt": f"who {number}", "completion": text} for number in range(3)]
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        path.write_text("prompt,completion\n" + "".join(f"{row['prompt']},{text}\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        write_jsonl(path, rows)


def matched_by_patterns(folder: Path, suffix: str) -> None:
    for name in ("site1", "q", "qa", "who1", "train v", "train 2", "ab", "x", "A"):
        write(folder / f"{name}{suffix}", "other")


@pytest.mark.parametrize("key", READERS)
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_a_file_with_an_odd_name_gives_its_own_rows(tmp_path: Path, key: str, suffix: str) -> None:
    matched_by_patterns(tmp_path, suffix)
    for name in ODD:
        path = tmp_path / f"{name}{suffix}"
        write(path, "right")
        assert READERS[key](str(path))["completion"][:] == ["right"] * 3, name
        path.unlink()


@pytest.mark.parametrize("name", ["site[1].jsonl", "q*.jsonl", "who?.csv", "x[1].parquet"])
def test_a_pattern_finds_no_file_of_another_name(tmp_path: Path, name: str) -> None:
    for suffix in (".jsonl", ".csv", ".parquet"):
        matched_by_patterns(tmp_path, suffix)
        write(tmp_path / f"x1{suffix}", "other")
    with pytest.raises(ConfigError, match="No such file or directory"):
        load_examples(str(tmp_path / name), DataConfig())
    assert len(private_examples(DataConfig(), 0, 1, 1, str(tmp_path / name))) == 0


@pytest.mark.parametrize("key", ["data.name", "data-path"])
@pytest.mark.parametrize("file", ["train.jsonl", "train.csv", "train.parquet", "deep/train [1].jsonl"])
def test_a_folder_with_an_odd_name_gives_its_own_rows(tmp_path: Path, key: str, file: str) -> None:
    for other in ("site1", "q", "qa", "who1", "p", "ab", "A"):
        write(tmp_path / other / file, "other")
    for name in ODD:
        write(tmp_path / name / file, "right")
        assert READERS[key](str(tmp_path / name))["completion"][:] == ["right"] * 3, name
        write(tmp_path / name / "set" / file, "other")
        shutil.rmtree(tmp_path / name)


def test_a_folders_files_keep_their_splits_subsets_and_separators(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: one\n  data_files: one/*.csv\n  sep: ';'\n"
        "- config_name: two\n  data_files:\n  - {split: train, path: two/a.tsv}\n"
        "  - {split: dev, path: two/b.jsonl.gz}\n---\n"
    )
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    (tmp_path / "one" / "x.csv").write_text("prompt;completion\na;1,5\n")
    (tmp_path / "two" / "a.tsv").write_text("prompt\tcompletion\na\t2,5\nb\t3,5\n")
    with gzip.open(tmp_path / "two" / "b.jsonl.gz", "wt") as file:
        file.write('{"prompt": "c", "completion": 4.50}\n')

    def read(**changes: Any) -> list[tuple[str, str | None]]:
        rows = load_examples(str(tmp_path), DataConfig(**changes))
        return list(zip(rows["completion"], rows["subset"], strict=True))

    assert read(subset="one") == [("1,5", "one")]
    assert read(subset="two", train_split="dev+train[-1:]") == [("4.50", "two"), ("3,5", "two")]
    assert read(subset="two,one") == [("2,5", "two"), ("3,5", "two"), ("1,5", "one")]
    with pytest.raises(ConfigError, match=r"""subset 'one', split 'dev'\): Unknown split "dev". .*train"""):
        read(subset="one", train_split="dev")


def test_a_folder_that_leads_back_to_itself_is_read_once(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", "right")
    (tmp_path / "back").symlink_to(tmp_path, target_is_directory=True)
    assert load_examples(str(tmp_path), DataConfig())["completion"][:] == ["right"] * 3


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "doesn't contain any data files"),
        ({"a.txt": "a"}, "doesn't contain any data files"),
        ({"a.csv": "a,b\n", "README.md": "---\nconfigs:\n- {config_name: x, data_files: a.csv, header: 3}\n---\n"},
         "its README sets header, which this app doesn't read"),
    ],
    ids=["nothing", "other files", "settings of a table"],
)  # fmt: skip
def test_a_folder_that_cannot_be_read_is_refused_by_its_name(
    tmp_path: Path, files: Mapping[str, str], said: str
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=rf'^data.name = "{tmp_path}": .*: .*{said}') as refusal:
        load_examples(str(tmp_path), DataConfig())
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "others",
    [["b.csv"], ["train-2.jsonl", "extra.jsonl"], ["sub/b.parquet"]],
    ids=["another kind", "no split", "deeper"],
)
def test_a_folders_files_that_would_not_be_read_are_told(tmp_path: Path, others: list[str]) -> None:
    """``datasets`` would take the one file, and say nothing of the other."""
    write(tmp_path / "train.jsonl", "right")
    for name in others:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, "lost")
    unread = tmp_path / others[-1]
    with pytest.raises(ConfigError, match=f"1 of its files would not be read, {unread} for one"):
        load_examples(str(tmp_path), DataConfig())
    unread.unlink()
    for name in ("dataset_info.json", ".cache/x.json", "notes.txt", "__pycache__/y.csv"):  # nobody's data
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    assert set(load_examples(str(tmp_path), DataConfig())["completion"]) <= {"right", "lost"}


def test_a_file_of_another_kind_is_no_name_to_ask_the_hub_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sets, "load_dataset_builder", lambda *_, **__: pytest.fail("the hub was asked"))
    (tmp_path / "own.xlsx").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="it is a file of another kind"):
        load_examples("own.xlsx", DataConfig())


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A name that is found on a hub whose files lie in a folder here."""
    write_jsonl(tmp_path / "train.jsonl", [{"prompt": f"p{n}", "completion": "2024-05-01"} for n in range(4)])

    def builder(name: str, subset: str | None, *, revision: str | None) -> DatasetBuilder:
        assert (name, subset, revision) == ("somebody/something", None, "main")
        return load_dataset_builder(str(tmp_path))

    monkeypatch.setattr(sets, "load_dataset_builder", builder)
    monkeypatch.setattr(sets, "_REMOTE", str(tmp_path))
    return "somebody/something"


def test_a_hubs_files_are_read_like_local_ones(hub: str) -> None:
    rows = load_examples(hub, DataConfig(train_split="train[:3]", revision="main"))
    assert rows.to_list() == [{"prompt": f"p{n}", "completion": "2024-05-01"} for n in range(3)]


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_set_of_the_hub_gives_no_file_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    """``datasets`` takes an absolute name in a README as it is; so whoever may write one could name a site's file."""
    write(tmp_path / "ward.jsonl", "private")
    named = DataFilesDict.from_patterns({"train": [str(tmp_path / "ward.jsonl")]}, base_path="hf://datasets/a/b@main")
    files = {split: [f"{scheme}{file}" for file in listed] for split, listed in named.items()}
    monkeypatch.setattr(sets, "_hub_files", lambda *_: (files, ""))
    with pytest.raises(ConfigError, match="its README names a file of this machine, which no set of the hub may"):
        load_examples("a/b", DataConfig())
