"""What columns that nobody asked for tell: which setting or which form of the file was meant."""

from collections.abc import Collection
from pathlib import Path

from common.data.csv_rows import other_delimiter
from common.data.formats import FORMATS

_PAIRS = (
    ("instruction", "output"), ("instruction", "response"), ("question", "answer"), ("question", "response"),
    ("query", "response"), ("prompt", "response"), ("prompt", "completion"), ("input", "output"), ("source", "target"),
)  # fmt: skip
_PREFERENCES = {"chosen", "rejected"}


def advice(columns: Collection[str], path: str, asked: str = "columns") -> str:
    """A sentence behind "has these columns", with the blank before it; ``""`` when they say nothing.

    ``asked``: the format that they should be of; only ``columns`` reads the names of columns.
    """
    known = [(len(layout.columns), name) for name, layout in FORMATS.items() if layout.has_columns(columns)]
    if known:
        most = max(count for count, _ in known)
        name = next(name for count, name in known if count == most)
        return f'. These are the columns of data.format = "{name}"'
    if set(columns) >= _PREFERENCES:
        return ". Pairs to prefer one text of (DPO) are not learned from: name the chosen texts' column as completion"
    for prompt, completion in _PAIRS:
        if {prompt, completion} <= set(columns):
            own = "" if asked == "columns" else 'data.format = "columns" with '
            return f'. Try {own}data.prompt-column = "{prompt}" and data.completion-column = "{completion}"'
    if len(columns) == 1:
        return _of_one(next(iter(columns)), path)
    return ""


def _of_one(column: str, path: str) -> str:
    if likely := other_delimiter(column):
        return likely
    if Path(path).suffix == ".json":
        return ". A .json file is one array of objects, [{...}, {...}]: take the array out of its wrapping"
    return ""
