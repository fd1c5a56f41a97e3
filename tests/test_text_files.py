"""Text is UTF-8 by name whatever the locale: in every call of the source, and in programs of another locale."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.tiny import Files

ROOT = Path(__file__).parents[1]
FOLDERS = ("benchmarks", "client_app", "common", "server_app", "tests", "workbench")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py") if path.name[:5] != "test_")
ALWAYS_TEXT = {"read_text", "write_text", "FileHandler", "TextIOWrapper"}
PROCESSES = {"run", "Popen", "check_output"}
# Without a UTF-8 locale, and without what Python does about that by itself.
POSIX = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def _constant(node: ast.Call, place: int, name: str) -> object:
    found = next((word.value for word in node.keywords if word.arg == name), None)
    found = found or (node.args[place] if place < len(node.args) else None)
    return found.value if isinstance(found, ast.Constant) else None


def unnamed(tree: ast.AST) -> Iterator[int]:
    """Lines of calls that open a text, or a pipe as text, in the encoding of whatever locale there is."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        words = {word.arg for word in node.keywords}
        if {"encoding", None} & words:
            continue
        is_path = isinstance(node.func, ast.Attribute) and called == "open"
        mode = _constant(node, 0 if is_path else 1, "mode")
        opens = called in {"open", "fdopen"} and isinstance(mode, str) and set(mode) <= set("rwxat+")
        opens |= isinstance(node.func, ast.Name) and called == "open" and mode is None
        opens |= called in {"NamedTemporaryFile", "TemporaryFile"} and isinstance(mode, str) and "b" not in mode
        pipes = called in PROCESSES and {"text", "universal_newlines"} & words
        if called in ALWAYS_TEXT or opens or pipes:
            yield node.lineno


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_text_file_and_pipe_names_its_encoding(path: Path) -> None:
    assert list(unnamed(ast.parse(path.read_text(encoding="utf-8")))) == []


@pytest.mark.parametrize(
    "code",
    [
        "p.read_text()", "p.write_text(t)", "p.open('a')", "open(p)", "open(p, 'w')", "open(p, mode='r')",
        "os.fdopen(d, 'w')", "subprocess.run(c, text=True)", "Popen(c, universal_newlines=True)",
        "logging.FileHandler(p)", "NamedTemporaryFile(mode='w')",
    ],
)  # fmt: skip
def test_the_check_finds_what_it_is_for(code: str) -> None:
    assert list(unnamed(ast.parse(code))) == [1]


@pytest.mark.parametrize(
    "code",
    ["p.read_text(encoding='utf-8')", "p.open('rb')", "open(p, 'wb')", "subprocess.run(c)", "Session.open(a, b)"],
)
def test_the_check_passes_what_is_right(code: str) -> None:
    assert list(unnamed(ast.parse(code))) == []


def posix(code: str, *arguments: str, **more: str) -> "subprocess.CompletedProcess[str]":
    """Run Python code in a locale that is not UTF-8."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONIOENCODING"}
    environment = {**inherited, **POSIX, **more}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, env=environment, capture_output=True, encoding="utf-8",
        errors="replace", check=False, timeout=300,
    )  # fmt: skip


RUN = """
import os, sys
from pathlib import Path
assert sys.getfilesystemencoding() != "utf-8"
from tests.support.tiny import Files, run_tiny, tiny_config
files, out = Files(Path(sys.argv[1]), Path(sys.argv[2])), Path(sys.argv[3])
config = tiny_config(files, out, {"privacy.epsilon": 0.0, "privacy.noise-multiplier": 0.8})
from server_app.results.console import ConsoleLog
ConsoleLog()("\\u03b5 of a run in Gr\\u00f6\\u00dfe")
run_tiny(config, plots=True)
"""


def test_a_run_in_another_locale_ends_with_all_that_it_leaves(files: Files, tmp_path: Path) -> None:
    done = posix(RUN, str(files.private), str(files.public), str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "[dr-encoder] \\u03b5 of a run in Gr\\xf6\\xdfe" in done.stdout, "what the terminal lacks is escaped"
    page = (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    assert "**ε = " in page
    assert "| ε |" in (tmp_path / "run" / "adapter" / "README.md").read_text(encoding="utf-8")
    assert (tmp_path / "run" / "bytes.png").stat().st_size > 4000
    assert (tmp_path / "run" / "checkpoint" / "ended").exists()
    assert json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))["schema"] == 1


COMMAND = "from workbench.program import main; main()"


def test_the_command_line_reads_and_names_files_as_utf_8_in_another_locale(tmp_path: Path) -> None:
    preset = tmp_path / "Größe.toml"
    preset.write_bytes("\ufeffdata.name = '/srv/Übung.jsonl'\r\ncodec.size = 'ä'\r\n".encode())
    done = posix(COMMAND, "run", "--preset", str(preset))
    assert done.returncode == 1
    assert "Unicode" not in done.stderr
    assert "codec.size" in done.stderr
    missing = posix(COMMAND, "run", "--preset", str(tmp_path / "fehlt-ü.toml"))
    assert "fehlt-ü.toml" in missing.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_without_greek_gets_help_all_the_same(encoding: str) -> None:
    done = posix(COMMAND, "compare", "--help", PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert "equal" in done.stdout
    assert "Traceback" not in done.stderr
