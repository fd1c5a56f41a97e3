"""Names of groups, files and columns in Markdown: whatever they are, they stay one piece of text."""

from collections.abc import Iterable


def plain(text: str) -> str:
    r"""A text that may hold names from elsewhere as one line without markup of HTML or of tables.

    >>> plain("a|b <i>\n c")
    'a\\|b &lt;i> c'
    """
    return " ".join(text.split()).replace("<", "&lt;").replace("|", r"\|")


def table_row(cells: Iterable[str]) -> str:
    """One row of a table."""
    return f"| {' | '.join(map(plain, cells))} |"
