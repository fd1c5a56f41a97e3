"""The tests themselves: what several need is in tests/support, not in one of them."""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


def borrowed(text: str) -> list[str]:
    """The test modules from which a text imports."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module or ''}.{alias.name}" for alias in node.names]
        else:
            continue
        found += [name for name in names if any(part.startswith("test_") for part in name.split("."))]
    return found


def test_nothing_is_imported_from_a_test_module() -> None:
    """Else a test breaks when another one is moved."""
    found = {str(path.relative_to(TESTS)): borrowed(path.read_text(encoding="utf-8")) for path in TESTS.rglob("*.py")}
    assert len(found) > 100
    assert {name: modules for name, modules in found.items() if modules} == {}


@pytest.mark.parametrize(
    "line",
    [
        "from tests.a.test_b import c",
        "import tests.test_b",
        "from .test_b import c",
        "def f():\n  from . import test_b",
    ],
)
def test_such_an_import_is_found_however_it_is_written(line: str) -> None:
    assert len(borrowed(line)) == 1
