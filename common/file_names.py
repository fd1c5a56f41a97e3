"""What a file's name says of how it is written."""

from pathlib import Path
from typing import Final

JSON, CSV, PARQUET = (".jsonl", ".ndjson", ".json"), (".csv", ".tsv"), (".parquet",)
KINDS: Final = (*JSON, *CSV, *PARQUET)
"""Of rows."""
PACKED: Final = (".gz", ".bz2", ".xz")
"""What may stand behind any of them."""


def kind_of(path: Path) -> str:
    """The suffix of ``KINDS`` that says how a file of rows is written, in lower case; else ``""``."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in PACKED:
        suffixes.pop()
    return suffixes[-1] if suffixes and suffixes[-1] in KINDS else ""


def names_a_file(name: str) -> bool:
    """Whether a name of data or a model means something on this machine, and not on a hub."""
    path = Path(name)
    return name.startswith((".", "/", "~")) or bool(kind_of(path)) or path.suffix.lower() == ".gguf"
