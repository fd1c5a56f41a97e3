"""Texts that were longer than the configuration lets them be."""

from common.counts import count
from common.data.tokenized import TokenizedExamples


def shortened_texts(tokens: TokenizedExamples, what: str, most: int) -> str:
    """A warning where some of ``what``, which are no site's own rows, were cut to ``most`` tokens, else ``""``."""
    if not tokens.shortened:
        return ""
    return (
        f"{what}: {tokens.shortened} of {count(len(tokens), 'text')} with more than data.max-length = {most} "
        "tokens, read without the start; raise it, or give shorter texts"
    )
