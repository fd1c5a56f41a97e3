"""Whether this answer may look at private rows: not one that is made because a worker died over them."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class _Attempt:
    rows: bool = True
    message: str = ""


_FIRST = _Attempt()
_ATTEMPT = ContextVar("attempt", default=_FIRST)


def may_read_rows() -> bool:
    """Whether rows may be read here; if not, the answer is the zero code."""
    return _ATTEMPT.get().rows


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
