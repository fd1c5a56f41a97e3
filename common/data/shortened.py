"""Texts that were longer than the configuration lets them be."""

from common.counts import count


def shortened_texts(shortened: int, texts: int, what: str, most: int) -> str:
    """A warning where some of ``what``, which are no site's own rows, were cut to ``most`` tokens, else ``""``."""
    if not shortened:
        return ""
    return (
        f"{what}: {shortened} of {count(texts, 'text')} with more than data.max-length = {most} "
        "tokens, read without the start; raise it, or give shorter texts"
    )
