"""Folders of files, as links may make them."""

import os
from collections.abc import Iterator
from pathlib import Path


def walk_once(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Every folder below ``folder``, links followed, with the names of its files; one that leads back is left out."""
    seen = set[str]()
    for place, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(place)) in seen:
            folders.clear()
            continue
        seen.add(real)
        yield place, names
