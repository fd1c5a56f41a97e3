"""Fixtures of the shared code that several test modules use."""

import pytest

from tests.support.example_rows import ROWS
from tests.support.tiny import write_jsonl


@pytest.fixture(scope="module")
def sorted_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """40 rows in order of their group."""
    return str(write_jsonl(tmp_path_factory.mktemp("own") / "rows.jsonl", ROWS))
