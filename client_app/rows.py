"""Whether this answer may look at private rows: not one that is made because a worker died over them.

And whether its failure may be the doing of rows: those that a process keeps of earlier answers take memory, so what
fails for want of it, at whatever step, would tell how many there are and how long the longest is.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from threading import Event

_DOUBTED = Event()


@dataclass(frozen=True)
class _Attempt:
    rows: bool = True
    message: str = ""


_FIRST = _Attempt()
_ATTEMPT = ContextVar("attempt", default=_FIRST)


def may_read_rows() -> bool:
    """Whether rows may be read here; if not, the answer is the zero code."""
    return _ATTEMPT.get().rows


def doubt() -> None:
    """Say that the failure at hand may be the doing of rows in this process.

    Whether it has read any or not, or it would be told who answers cover, and so who does not. The process that was
    started to answer without them has none.
    """
    if may_read_rows():
        _DOUBTED.set()


def in_doubt() -> bool:
    """Whether that was said: then this process tells nothing, and another is to find out without the rows."""
    return _DOUBTED.is_set()


def is_retry_of(message: str) -> bool:
    """Whether this is an attempt without rows at the very message that is called so: no answer to it has left."""
    attempt = _ATTEMPT.get()
    return not attempt.rows and attempt.message == message != ""


def message_name() -> str:
    """What the process that waits for this answer calls its message, ``""`` where there is none."""
    return _ATTEMPT.get().message


@contextmanager
def rows_allowed(allowed: bool, message: str = "") -> Iterator[None]:
    """Answer the message in the block, which is called ``message`` at random, with or without the rows."""
    token = _ATTEMPT.set(_Attempt(allowed, message))
    try:
        yield
    finally:
        _ATTEMPT.reset(token)
