"""Whether local files are what they were, by what the file system tells of them."""

from pathlib import Path

from common.folders import walk_once

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
        elif deep:
            found = [Path(path, file) for path, files in walk_once(place) for file in files]
        else:
            found = [path for path in place.iterdir() if path.is_file()]
    except OSError:
        return []
    return sorted((str(path.relative_to(place.parent)), version(str(path))) for path in found)
