"""Names of groups, files and columns in Markdown: whatever they are, they stay one piece of text."""

from collections.abc import Iterable

from server_app.results.units import harmless


def plain(text: str) -> str:
    r"""A text that may hold names from elsewhere as one line without markup of HTML, of tables, links or images.

    Nor with characters that a terminal obeys; an image would tell another server who reads.

    >>> plain("a|b <i>\n c"), plain("![a](b) \x1b[2J")
    ('a\\|b &lt;i> c', '![a]\\(b) \\x1b[2J')
    """
    said = harmless(" ".join(text.split()))
    return said.replace("<", "&lt;").replace("|", r"\|").replace("](", r"]\(")


def table_row(cells: Iterable[str]) -> str:
    """One row of a table."""
    return f"| {' | '.join(map(plain, cells))} |"
