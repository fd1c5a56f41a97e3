"""No command prints what a terminal obeys."""

import ast
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

import workbench
from server_app.results.units import speak
from workbench.saying import say

ROOT = Path(workbench.__file__).parent
CONSTANT = {"cli/main.py"}  # the help and the version of this program


def test_what_a_terminal_would_obey_is_printed_as_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    say("a\x1b]0;title\x07b\x1b[2J\u202ec\td", fg="red")
    say("e\x9bf", err=True, nl=False)
    told = capsys.readouterr()
    assert told.out == "a\\x1b]0;title\\x07b\\x1b[2J\\u202ec\td\n"
    assert told.err == "e\\x9bf"


@pytest.mark.parametrize("tell", [say, speak])
def test_an_output_that_is_full_is_told_as_that(tell: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """A run said that its results folder was, which had room."""
    with Path("/dev/full").open("w", encoding="utf-8", buffering=1) as full:
        monkeypatch.setattr("sys.stdout", full)
        with pytest.raises(OSError, match="No space left on device: 'standard output'"):
            tell("a line")
        monkeypatch.undo()
        with suppress(OSError):
            full.close()


def test_every_command_says_it_there() -> None:
    """A call that forgot it let a log, a record of a comparison and a bundle's own name speak to the terminal."""
    found = {
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in ROOT.rglob("*.py")
        if path.name != "saying.py" and path.relative_to(ROOT).as_posix() not in CONSTANT
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and (
            (isinstance(node.func, ast.Attribute) and node.func.attr in {"echo", "secho"})
            or (
                isinstance(node.func, ast.Name)
                and node.func.id == "print"
                and not isinstance(node.args[0], ast.Constant)
            )
        )
    }
    assert found == set()
