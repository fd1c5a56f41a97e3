"""What may lie in a folder that somebody has sent: links to other places, and pipes that are waited for."""

from collections.abc import Sequence
from pathlib import Path

TRACKERS = ("wandb",)
"""Folders in one of results that this app neither reads nor writes: its links lead to the tracker's own cache."""


def strange_file(folder: Path, allowed: Sequence[Path] = (), others: Sequence[str] = ()) -> str:
    """What in ``folder`` is neither file nor folder, or a link out of it; ``""`` where nothing is.

    Through a link one reads and writes whatever it names. ``allowed``: where links may lead beside the folder itself.
    ``others``: names of folders in it that this app neither reads nor writes.
    """
    places = [folder.resolve(), *allowed]
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if name.parts[0] in others and len(name.parts) > 1:
            continue
        if path.is_symlink() and not any(path.resolve().is_relative_to(place) for place in places):
            return f"{name} is a link out of that folder; put the file itself there"
        if path.exists() and not (path.is_file() or path.is_dir()):
            return f"{name} is neither a file nor a folder"
    return ""
