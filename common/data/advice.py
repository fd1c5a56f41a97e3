"""What columns that nobody asked for tell: which setting or which form of the file was meant."""

from collections.abc import Collection
from pathlib import Path

from common.data.formats import FORMATS

_CHATS = ("messages", "conversations")


def advice(columns: Collection[str], path: str) -> str:
    """A sentence behind "has these columns", with the blank before it; ``""`` when they say nothing."""
    known = [name for name, layout in FORMATS.items() if set(layout.columns) <= set(columns)]
    if known:
        return f'. These are the columns of data.format = "{known[0]}"'
    if chats := [name for name in _CHATS if name in columns]:
        return f". Chats ({chats[0]}) are not read: give each example a prompt and a completion of its own"
    if len(columns) == 1:
        return _of_one(next(iter(columns)), path)
    return ""


def _of_one(column: str, path: str) -> str:
    for name, mark in (("semicolons", ";"), ("tabs", "\t"), ("bars", "|")):
        if mark in column:
            return f". Its cells are parted by {name}: save it with commas" + (" or as .tsv" if mark == "\t" else "")
    if Path(path).suffix == ".json":
        return ". A .json file is one array of objects, [{...}, {...}]: take the array out of its wrapping"
    return ""
