"""What Flower ships to every site is what the two apps reach, and nothing else."""

import ast
import io
import shutil
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk

from server_app import strategies

ROOT = Path(__file__).parents[1]
APPS = ("server_app.app", "dr_encoder_client", "client_app.app", "client_app.worker", "client_app.resident")
"""The two apps, and what a client starts in a process of its own."""

COMMANDS = {
    "client_app.new_ledger": "a site runs it, once, from what it was sent (docs/deployment.md)",
    "client_app.new_site_key": "likewise, where messages are aggregated securely (docs/deployment.md)",
}
"""What nothing imports and a site needs all the same."""


def module_of(path: str) -> str:
    """The module of a Python file, relative to the root."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imported(module: str, text: str, known: Iterable[str]) -> Iterator[str]:
    """The modules among ``known`` that a text imports anywhere in it, each with the packages above it."""
    known = set(known)
    for node in ast.walk(ast.parse(text)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively, which this does not follow"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            yield from known & {".".join(parts[:end]) for end in range(1, len(parts) + 1)}


def reached(starts: Iterable[str], texts: dict[str, str]) -> set[str]:
    """Every module that one of ``starts`` imports, or something that it imports."""
    seen: set[str] = set()
    todo = list(starts)
    while todo:
        module = todo.pop()
        if module not in seen:
            seen.add(module)
            todo += imported(module, texts[module], texts)
    return seen


def sources() -> dict[str, str]:
    """The text of every module of the project that is not a test."""
    paths = [ROOT / "dr_encoder_client.py"]
    for package in ("benchmarks", "client_app", "common", "examples", "server_app", "workbench"):
        paths += (ROOT / package).rglob("*.py")
    return {module_of(path.relative_to(ROOT).as_posix()): path.read_text(encoding="utf-8") for path in paths}


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The modules in the bundle that Flower builds of this folder, without what it would only walk through."""
    copy = tmp_path_factory.mktemp("bundle") / "app"
    shutil.copytree(
        ROOT, copy, ignore=shutil.ignore_patterns(".venv", ".git", ".*_cache", "__pycache__"), symlinks=True
    )
    with zipfile.ZipFile(io.BytesIO(build_fab_from_disk(copy))) as bundle:
        return {module_of(name) for name in bundle.namelist() if name.endswith(".py")}


def test_the_bundle_holds_what_the_two_apps_reach(shipped: set[str]) -> None:
    """Strategies are imported by name, when a run asks for one."""
    texts = sources()
    needed = reached([*APPS, *(strategies.STRATEGIES[name].__module__ for name in strategies.STRATEGIES)], texts)
    assert shipped == needed | set(COMMANDS)
    assert not needed & set(COMMANDS), "an exception that is none"


def test_imports_are_followed_through_functions_packages_and_names() -> None:
    texts = {
        "a": "def f():\n    from b.c import d",
        "b": "import e",
        "b.c": "",
        "b.c.d": "",
        "e": "import e, numpy",
        "f": "import a",
    }
    assert reached(["a"], texts) == {"a", "b", "b.c", "b.c.d", "e"}
