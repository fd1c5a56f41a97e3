"""What a file's name says."""

from pathlib import Path

import pytest

from common.data.raw import OPENERS
from common.file_names import PACKED, kind_of, names_a_file


@pytest.mark.parametrize(
    ("name", "kind", "file"),
    [
        ("a.jsonl", ".jsonl", True),
        ("A.JSONL.GZ", ".jsonl", True),
        ("a.tsv.xz", ".tsv", True),
        ("a.csv.gz.gz", "", False),  # unpacked once, this is a packed file
        ("a.gz", "", False),
        ("q4.GGUF", "", True),
        ("q4.gguf.gz", "", False),
        ("org/set", "", False),
        ("org/set.v1", "", False),
        ("./set", "", True),
        ("~/set", "", True),
        ("/set", "", True),
    ],
)
def test_the_suffix_tells_the_kind_of_rows_and_whether_a_name_is_of_this_machine(
    name: str, kind: str, file: bool
) -> None:
    assert (kind_of(Path(name)), names_a_file(name)) == (kind, file)


def test_all_that_may_be_packed_can_be_opened() -> None:
    assert set(PACKED) == set(OPENERS)
