"""The results folder: what a comparison may write over, and what of an earlier one it takes away."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from common.config import ConfigError
from server_app.results.naming import naming
from server_app.results.output_place import write_fault
from workbench.compare.spec import OWN, TUNING

SCHEMA = 1
"""Version of ``comparison.json``."""
PLOTS = tuple(
    f"{kind}-{task}.png" for task in (*TUNING, OWN) for kind in ("utility", "curves", "bytes", "reconstruction")
)
"""Every name that ``draw`` can give a plot."""
NUMBERS, PAGE = "comparison.json", "comparison.md"


def check_folder(out: Path) -> None:
    """Raise ``ConfigError`` when ``out`` cannot be written into, or holds results that are not ours."""
    if next(place for place in (out, *out.absolute().parents) if place.exists()).is_file():
        raise ConfigError(f"--out {out}: there is a file of that name; give a folder")
    why = write_fault(out.absolute())
    if why:
        raise ConfigError(f"--out {out}: {why}; give a folder that you may write into")
    if linked := next((name for name in PLOTS if (out / name).is_symlink()), ""):
        raise ConfigError(f"--out {out}: {linked} is a link, and what it names would be overwritten; take it away")
    taken = [name for name in (PAGE, NUMBERS, *PLOTS) if (out / name).exists()]
    if taken and not _is_ours(out / NUMBERS):
        raise ConfigError(
            f"--out {out}: {', '.join(taken)} there was not made by this command (no {NUMBERS} of schema {SCHEMA} is "
            "beside it) and would be overwritten; give another folder, or move it away"
        )


def write_whole(path: Path, text: str) -> None:
    """Write a file; a crash or a full disk leaves the old one or the new one, never half of it."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with naming(path):
            fresh.write_text(text, encoding="utf-8")
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def remove_stale(out: Path, drawn: Iterable[Path]) -> None:
    """Take away the plots of an earlier comparison that this one did not draw: its page no longer shows them."""
    for path in {out / name for name in PLOTS} - set(drawn):
        path.unlink(missing_ok=True)


def _is_ours(path: Path) -> bool:
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("schema") == SCHEMA and {"rows", "command", "tuning"} <= found.keys()
