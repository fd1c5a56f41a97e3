"""Figures as JSON has them; files of one JSON object a line, of which what a crash has torn is never read."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def load_json(text: str | bytes) -> Any:  # noqa: ANN401 - any JSON value
    """What a JSON document holds. Raises ``ValueError`` for what is none, or nested deeper than Python's stack."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def end_torn_line(path: Path) -> None:
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
    end_torn_line(path)
    with path.open("a", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> list[dict[str, Any]]:
    """All whole lines, oldest first; none of a file that is not there."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [row for row in map(_row, lines) if row is not None]


def _row(line: str) -> dict[str, Any] | None:
    """What a line holds; ``None`` for a torn one, which may even end in a brace."""
    try:
        found = load_json(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def finite(value: Any) -> Any:  # noqa: ANN401 - walks arbitrary JSON
    """A value as JSON can hold it: infinities become text, which ``float`` reads again; what is no number is ``None``.

    >>> finite({"epsilon": math.inf, "losses": (1.5, math.nan), "steps": [-math.inf, 2]})
    {'epsilon': 'inf', 'losses': [1.5, None], 'steps': ['-inf', 2]}
    """
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value
