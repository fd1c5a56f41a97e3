"""Files of one JSON object a line that a crash may have torn: such a line is left where it is, and never read."""

import json
import os
from pathlib import Path
from typing import Any


def mend(path: Path) -> None:
    """End the last line if it was torn, so that what is appended begins on its own; no file is none that is torn."""
    try:
        with path.open("rb+") as file:
            size = file.seek(0, os.SEEK_END)
            if size:
                file.seek(size - 1)
                if file.read(1) != b"\n":
                    file.write(b"\n")
    except FileNotFoundError:
        return


def append(path: Path, text: str) -> None:
    """Add one line, on disk before this returns."""
    mend(path)
    with path.open("a", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> list[dict[str, Any]]:
    """All whole lines, oldest first; none of a file that is not there."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [row for row in map(_row, lines) if row is not None]


def _row(line: str) -> dict[str, Any] | None:
    """What a line holds; ``None`` for a torn one, which may even end in a brace."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
