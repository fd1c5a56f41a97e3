"""Texts of another party, for people and for logs."""

_LONGEST = 300


def printable(text: str, longest: int = _LONGEST) -> str:
    r"""One line of what may hold anything: control characters and line ends escaped, its length bounded.

    >>> printable("a\nb\x1b[2J"), printable("abc", 2)
    ('a\\nb\\x1b[2J', 'ab...')
    """
    cut = text if len(text) <= longest else text[:longest] + "..."
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in cut)
