"""What the pages name is there: files, folders and links; and the drawing of the rooms is that of the tree."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
TOPS = tuple(
    path.name
    for path in ROOT.iterdir()
    if (path / "__init__.py").exists() or path.name in {"docs", "docker", "requirements", "systemd"}
)
TO_MAKE = {
    "common/codecs/thinned.py": "what docs/extending.md lets the reader write",
    "server_app/strategies/thinned_lora.py": "the same",
    "docker/models": "where an operator puts models",
}
"""What a page names and a checkout has not, with the reason."""

_SPAN = re.compile(r"`([^`\n]+)`")
_PATH = re.compile(r"(?<![\w/.-])((?:[\w*.-]+/)+[\w*.-]*)")
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def paths_in(text: str) -> list[str]:
    """The paths between backticks that begin with a folder of the project."""
    found = [path.rstrip("/.") for span in _SPAN.findall(text) for path in _PATH.findall(span)]
    return [path for path in found if path.split("/")[0] in TOPS]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_path_that_a_page_names_is_there(page: Path) -> None:
    named = set(paths_in(page.read_text(encoding="utf-8"))) - set(TO_MAKE)
    assert sorted(path for path in named if not any(ROOT.glob(path))) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_within_the_project_leads_somewhere(page: Path) -> None:
    links = [link for link in _LINK.findall(page.read_text(encoding="utf-8")) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


def rooms(drawing: list[str]) -> list[str]:
    """The paths of the drawing: a room at the edge of one of two columns, what is in it two characters further in."""
    found, room, second, right = [], "", 0, ""
    for line in drawing:
        if top := re.match(r"(\w+/)", line):
            room, right = top[1], ""
            if beside := re.search(r"\s{2,}(\w+/)\s{2,}", line[len(room) + 16 :]):
                right = beside[1]
                second = line.index(right, len(room))
            found += [room, *([right] if right else [])]
        elif room:
            found += [room + name for name in _names(line[2:second] if right else line[2:])]
            found += [right + name for name in _names(line[second + 2 :])] if right else []
    return found


def _names(column: str) -> list[str]:
    """``name/`` or ``name.py``, or several with commas, at the very beginning of a column."""
    head = re.match(r"([\w*]+(?:/|\.py)(?:, [\w*]+(?:/|\.py))*)", column)
    return head[1].split(", ") if head else []


def test_the_drawing_of_the_rooms_is_that_of_the_tree() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    drawn = rooms(re.findall(r"```\n(.*?)```", page, re.DOTALL)[0].splitlines())
    assert [path for path in drawn if not any(ROOT.glob(path))] == []
    for top in ("server_app", "common", "workbench"):
        inside = (path for path in (ROOT / top).iterdir() if (path / "__init__.py").exists())
        there = {f"{path.relative_to(ROOT).as_posix()}/" for path in inside}
        assert there <= set(drawn), "a room that is not drawn"


def test_a_path_is_found_in_a_command_and_a_drawing_has_two_columns() -> None:
    assert paths_in("`python -m x docs/none.md`, `tests/a_*.py`, `a/b`") == ["docs/none.md", "tests/a_*.py"]
    drawing = [
        "top/     what",
        "  in/      more",
        f"{'one/     the one':30}two/   the other",
        f"{'  a.py    x':32}b*.py, c.py: y",
    ]
    assert rooms(drawing) == ["top/", "top/in/", "one/", "two/", "one/a.py", "two/b*.py", "two/c.py"]
