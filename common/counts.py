"""Counts as people read them."""


def count(number: int, what: str) -> str:
    """A number of things: ``1 run``, ``2 runs``, ``1,000 runs``.

    >>> count(1, "run"), count(1000, "run")
    ('1 run', '1,000 runs')
    """
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
