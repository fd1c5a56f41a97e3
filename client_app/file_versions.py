"""Whether local files are what they were, by what the file system tells of them."""

import os
from collections.abc import Iterator
from pathlib import Path

Version = tuple[int, ...] | None


def version(name: str) -> Version:
    """Identity of a file's content as the file system tells it; ``None`` for what is not a file here.

    That somebody lets it be read, who could not before, is a change, too.
    """
    try:
        found = Path(name).stat() if name else None
    except OSError:
        return None
    return (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns) if found else None


def versions(name: str, *, deep: bool = False) -> list[tuple[str, Version]]:
    """Names and identities of a local file, or of the files of a folder, and if ``deep`` of all folders in it.

    Empty for a hub id. A model is not loaded from sub-folders.
    """
    place = Path(name)
    try:
        if not name or not place.is_dir():
            found = [place] if name and place.is_file() else []
        else:
            found = [Path(path, file) for path, files in _walk(place, deep=deep) for file in files]
    except OSError:
        return []
    return sorted((str(path.relative_to(place.parent)), version(str(path))) for path in found)


def _walk(folder: Path, *, deep: bool) -> Iterator[tuple[str, list[str]]]:
    seen = set[str]()
    for place, folders, files in os.walk(folder, followlinks=deep):
        if (real := os.path.realpath(place)) in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(real)
        yield place, files
        if not deep:
            return
