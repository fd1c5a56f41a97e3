"""The examples in docstrings say what the functions do."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for package in ("client_app", "common", "server_app", "workbench")
    for path in (ROOT / package).rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_hold(name: str) -> None:
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0
    assert found.failed == 0


def test_the_functions_that_newcomers_read_first_have_examples() -> None:
    assert {"common.adapter", "common.config.run", "common.privacy.clipping", "common.privacy.gaussian"} <= {*MODULES}
