"""How figures are written for people, and the mark of a run's own lines among Flower's. Imports nothing heavy."""

import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import TextIOWrapper
from unicodedata import bidirectional, category

MARK = "[dr-encoder] "
TRACEBACK = "(a traceback is in Flower's log)"  # behind an error that the app did not expect
_DIRECTIONS = {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}  # marks, and not letters, by Unicode


def speak(line: str) -> None:
    """Print a line, with escapes for what the terminal's encoding lacks ("ε" in one without Greek)."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    with printing():
        print(harmless(line).encode(encoding, "backslashreplace").decode(encoding), flush=True)


@contextmanager
def printing() -> Iterator[None]:
    """Let an output that is full be told as that: its error names no file, and was taken for the results folder's."""
    try:
        yield
    except OSError as error:
        if error.filename is None and not isinstance(error, BrokenPipeError):
            error.filename = "standard output"
        raise


def harmless(text: str) -> str:
    r"""A text from elsewhere with its control characters but tab and new line as escapes: a terminal obeys them.

    Those that turn the direction of a text round are among them, since they reach into what is beside it.

    >>> harmless("a\x1b[2J b\x9bc é")
    'a\\x1b[2J b\\x9bc é'
    >>> harmless("a\u202eb")
    'a\\u202eb'
    """
    return "".join(repr(sign)[1:-1] if _commands(sign) else sign for sign in text)


def _commands(sign: str) -> bool:
    return (category(sign) == "Cc" and sign not in "\n\t") or bidirectional(sign) in _DIRECTIONS


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
    """An epsilon rounded up at the third digit, so that what is printed still holds; ``"inf"`` passes.

    >>> show(1.2341), show(0.00004321), show("inf")
    ('1.235', '4.4e-05', 'inf')
    """
    value = float(epsilon)
    if 0 < value < 0.001:  # two digits of it, rounded up
        scale = 10.0 ** (1 - math.floor(math.log10(value)))
        return f"{math.ceil(value * scale) / scale:.1e}"
    return "inf" if math.isinf(value) else f"{math.ceil(value * 1000) / 1000:.3f}"


def rounded_up(epsilon: float, digits: int = 3) -> float:
    """An epsilon rounded up to so many significant digits, for tables with little room: what is printed still holds.

    The last bits of a sum of many losses are not rounded up.

    >>> rounded_up(6.181), rounded_up(2.0000000000000004), rounded_up(math.inf)
    (6.19, 2.0, inf)
    """
    if not 0 < epsilon < math.inf:
        return epsilon
    scale = 10.0 ** (digits - 1 - math.floor(math.log10(epsilon)))
    return math.ceil(epsilon * scale * (1 - 1e-12)) / scale


def show_delta(delta: float) -> str:
    """A delta with up to six digits, rounded up: at a smaller one the epsilon beside it would not hold.

    >>> show_delta(1e-05), show_delta(1 / 70)
    ('1e-05', '0.0142858')
    """
    return f"{rounded_up(delta, 6):g}"


def show_multiplier(noise: float, digits: int = 3) -> str:
    """A noise multiplier for people, so many ``digits`` behind the point; a small one by its first three instead.

    >>> show_multiplier(1.4361), show_multiplier(0.0001)
    ('1.436', '0.0001')
    """
    return f"{noise:.3g}" if 0 < noise < 10 ** (1 - digits) else f"{noise:.{digits}f}"


def data_size(count: float) -> str:
    """A byte count in B, kB, MB or GB (powers of 1,000), with three digits.

    >>> data_size(589), data_size(49_234), data_size(9_838_800), data_size(999_990)
    ('589 B', '49.2 kB', '9.84 MB', '1.00 MB')
    """
    value, units = float(count), ["GB", "MB", "kB", "B"]
    while units[-1] != "GB" and abs(value) >= 999.5:
        value /= 1000
        units.pop()
    digits = 0 if units[-1] == "B" or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:,.{digits}f} {units[-1]}"


def times(more: float, less: float) -> str:
    """How many times ``more`` is as large as ``less``, in words; below that, that it is less or the same.

    >>> times(50, 10), times(10, 50), times(10, 10.1)
    ('5.0 times more', '5.0 times less', 'about the same')
    """
    ratio = more / less
    if math.isnan(ratio):  # as where no client replied
        return "not known"
    if 0.95 < ratio < 1.05:
        return "about the same"
    factor, word = (ratio, "more") if ratio > 1 else (1 / ratio, "less")
    return f"{factor:,.0f} times {word}" if factor >= 9.95 else f"{factor:.1f} times {word}"


def bytes_against_lora(run: Mapping[str, float], plain: Mapping[str, float]) -> str:
    """A client's bytes both ways in a whole run beside plain LoRA's (``RunBytes.figures``)."""
    if not run["both"]:
        return "no round was run"
    return (
        f"{data_size(run['both'])} both ways ({data_size(run['up'])} up, {data_size(run['down'])} down), "
        f"plain LoRA {data_size(plain['both'])} ({times(plain['both'], run['both'])})"
    )


def clock(seconds: float) -> str:
    """Seconds as minutes:seconds, from an hour on as hours:minutes:seconds.

    >>> clock(75.9), clock(3_600), clock(32_506)
    ('1:15', '1:00:00', '9:01:46')
    """
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
