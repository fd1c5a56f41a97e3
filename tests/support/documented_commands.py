"""The ``dr-encoder`` commands that people are told to copy: in README.md, docs/*.md and the heads of the presets."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PRESETS = sorted((ROOT / "common" / "presets").glob("*.toml"))
_FENCE = re.compile(r"^ *```[^\n]*\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`(dr-encoder [a-z][^`]*)`")
_LINE = re.compile(r"(?:\$ )?(dr-encoder .*)")
_OUTPUT_OF = re.compile(r"^dr-encoder on ")  # the first line that `dr-encoder plan` prints
_RECORDS = ("experiments", "experiments-log")  # which name the commit that has what they ran
_LEFT = re.compile(r"\b(public|history)-prior\b")
_SPAN = re.compile(r"(?:dr-encoder [a-z]+|\.\.\.)(?: --[a-z-]+ [\w./=,+-]*\w)+")


@dataclass(frozen=True)
class Documented:
    """A command as it is written: the file that has it, and its words after ``dr-encoder``."""

    file: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.file}: {' '.join(self.words)}"


def in_pages() -> Iterator[Documented]:
    """Every command of README.md and docs/*.md: lines of code blocks, and code in a sentence."""
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for text in _commands(path.read_text(encoding="utf-8")):
            words = shlex.split(text, comments=True)[1:]
            if "--help" not in words and not (path.stem in _RECORDS and _LEFT.search(text)):
                yield Documented(path.relative_to(ROOT).as_posix(), tuple(words))


def in_presets() -> Iterator[Documented]:
    """Every command of a preset's head; ``...`` stands for the run of that preset."""
    for path in PRESETS:
        head = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
        for span in (found.group() for line in head for found in _SPAN.finditer(line)):
            words = span.split()
            start = ["run", "--preset", path.stem] if words[0] == "..." else []
            yield Documented(path.name, (*start, *words[1:]))


def _commands(page: str) -> Iterator[str]:
    joined = re.sub(r" *\\\n *", " ", page)
    blocks = _FENCE.findall(joined) + re.findall(r"(?:^    .*\n)+", joined, re.MULTILINE)
    for line in "\n".join(blocks).splitlines():
        found = _LINE.fullmatch(line.strip())
        if found and not _OUTPUT_OF.match(found.group(1)):
            yield found.group(1)
    for text in _INLINE.findall(_FENCE.sub("", joined)):
        if "--" in text:  # else it only names the command
            yield " ".join(text.split())
