"""Processes that a test started and ought to have ended."""

import os
import time
from pathlib import Path


def processes_of(scratch: Path) -> list[str]:
    """Command lines of other processes whose environment names ``scratch``."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            mine = entry.name == str(os.getpid())
            if not mine and str(scratch).encode() in (entry / "environ").read_bytes():
                found.append((entry / "cmdline").read_text(encoding="utf-8").replace("\0", " "))
        except OSError:
            continue
    return found


def left_running(scratch: Path) -> list[str]:
    """What is still there after ten seconds."""
    deadline = time.monotonic() + 10
    while (found := processes_of(scratch)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return found
