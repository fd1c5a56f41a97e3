"""What a page says: its text, and what its attributes tell a reader or a script."""

from html.parser import HTMLParser

_EMPTY = {"meta", "link", "br"}
_TOLD = {"data-points", "aria-label", "title", "alt", "href", "content"}


class _Reader(HTMLParser):
    def __init__(self, without: tuple[str, ...]) -> None:
        super().__init__()
        self.without = {"style", "script", *without}
        self.found: list[str] = []
        self.within: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _EMPTY:
            self.within.append(tag)
        self.found += [value for name, value in attrs if name in _TOLD and value and not value.startswith("#")]

    def handle_endtag(self, tag: str) -> None:
        if tag in self.within:
            while self.within.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        if not self.without.intersection(self.within):
            self.found.append(data.strip())


def page_text(page: str, without: tuple[str, ...] = ()) -> str:
    """Everything that a page says, but for what is in elements of the names ``without``."""
    reader = _Reader(without)
    reader.feed(page)
    return "\n".join(text for text in reader.found if text)
