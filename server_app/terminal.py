"""How figures are written for people, and the mark of a run's own lines among Flower's. Imports nothing heavy."""

import math
import os
import sys
from io import TextIOWrapper

MARK = "[dr-encoder] "
TRACEBACK = "(a traceback is in Flower's log)"  # behind an error that the app did not expect


def speak(line: str) -> None:
    """Print a line, with escapes for what the terminal's encoding lacks ("ε" in one without Greek)."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(line.encode(encoding, "backslashreplace").decode(encoding), flush=True)


def use_utf8() -> None:
    """Let this program work in UTF-8 whatever the locale is: names of files, its arguments, and what it starts.

    Python settles the encoding of file names when it starts, so in another locale the program is started anew, in
    UTF-8 mode. Output that the terminal cannot show never ends it.
    """
    if sys.getfilesystemencoding() != "utf-8":
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {"PYTHONUTF8": "1"})  # noqa: S606
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def show(epsilon: float | str) -> str:
    """An epsilon rounded up at the third digit, so that what is printed still holds; ``"inf"`` passes."""
    value = float(epsilon)
    return "inf" if math.isinf(value) else f"{math.ceil(value * 1000) / 1000:.3f}"


def kilobytes(count: float) -> str:
    """A byte count in kB (1,000 bytes)."""
    return f"{count / 1000:,.1f} kB"


def clock(seconds: float) -> str:
    """Seconds as minutes:seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def count(number: int, what: str) -> str:
    """A number of things: ``1 run``, ``2 runs``, ``1,000 runs``."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
