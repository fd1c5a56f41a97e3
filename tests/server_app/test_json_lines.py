"""Lines that survive a crash, whatever the crash left of the last one."""

import json
from pathlib import Path

import pytest

from server_app.results.json_lines import append, end_torn_line, read


def written(path: Path, *rows: dict[str, object]) -> None:
    for row in rows:
        append(path, json.dumps(row))


def test_what_is_appended_is_read_in_order(tmp_path: Path) -> None:
    written(tmp_path / "log", {"round": 1, "said": "ü"}, {"round": 2})
    assert read(tmp_path / "log") == [{"round": 1, "said": "ü"}, {"round": 2}]


@pytest.mark.parametrize(
    "torn", [b"{", b'{"round": 2, "of": {"a": 1}', b'{"said": "\xc3', b"2", b"x" * 10_000, b"[" * 100_000]
)
def test_a_torn_line_is_left_out_and_spoils_no_other(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "log"
    written(path, {"round": 1})
    with path.open("ab") as file:
        file.write(torn)
    assert read(path) == [{"round": 1}]
    written(path, {"round": 3})
    assert read(path) == [{"round": 1}, {"round": 3}]


def test_a_whole_line_that_lacks_only_its_end_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text('{"round": 1}')
    written(path, {"round": 2})
    assert [row["round"] for row in read(path)] == [1, 2]


def test_there_is_nothing_to_mend_in_a_whole_or_an_absent_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    end_torn_line(path)
    assert not path.exists()
    assert read(path) == []
    path.touch()
    end_torn_line(path)
    written(path, {"round": 1})
    before = path.read_bytes()
    end_torn_line(path)
    assert path.read_bytes() == before == b'{"round": 1}\n'
