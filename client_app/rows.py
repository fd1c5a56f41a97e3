"""Whether this answer may look at private rows: not one that is made because a worker died over them."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_MAY_READ = ContextVar("may_read", default=True)


def may_read_rows() -> bool:
    """Whether rows may be read here; if not, the answer is the zero code."""
    return _MAY_READ.get()


@contextmanager
def rows_allowed(allowed: bool) -> Iterator[None]:
    """Answer the message in the block with or without the rows."""
    token = _MAY_READ.set(allowed)
    try:
        yield
    finally:
        _MAY_READ.reset(token)
