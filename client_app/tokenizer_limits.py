"""What a model's tokenizer may do over private rows: it comes with the model, and much of it is a program.

Its expressions may take minutes over a text that its maker has guessed, and what it replaces may grow by as much: both
would tell whether a site holds that text, by the time of an answer or the memory it takes. So a site with its own data
takes a tokenizer only where its work is bounded by the text's length, whatever the text.
"""

import base64
import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from tokenizers.models import WordPiece
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from client_app.expressions import Unbounded, check_expression
from common.config import ConfigError

MOST_GROWTH = 32
"""How many times as long a text may become; compatibility forms of Unicode alone make 18 characters of one."""
_LONGEST_WORD = 1000  # characters; WordPiece tries every part of a word
_LONGEST_PREFIX = 16
_NORMALIZERS = {
    *("Sequence", "BertNormalizer", "ByteLevel", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Precompiled"),
    *("Prepend", "Replace", "Strip", "StripAccents"),
}
_PRE_TOKENIZERS = {
    *("Sequence", "BertPreTokenizer", "ByteLevel", "Delimiter", "CharDelimiterSplit", "Digits", "FixedLength"),
    *("Metaspace", "Punctuation", "Split", "UnicodeScripts", "Whitespace", "WhitespaceSplit"),
}


@lru_cache(maxsize=2)
def check_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise ``ConfigError`` unless the tokenizer's work is bounded by the length of a text. No text is looked at."""
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise _refused("it has no tokenizer.json, which alone can be looked through")
    backend, growth = tokenizer.backend_tokenizer, 1
    for part in _parts(backend.normalizer, "normalizers", _NORMALIZERS):
        growth *= _growth(part)
    if growth > MOST_GROWTH:
        raise _refused(f"its normalizer may make a text over {MOST_GROWTH} times as long")
    for part in _parts(backend.pre_tokenizer, "pretokenizers", _PRE_TOKENIZERS):
        _check_pattern(part)
    if isinstance(backend.model, WordPiece) and backend.model.max_input_chars_per_word > _LONGEST_WORD:
        raise _refused(f"its words may be longer than {_LONGEST_WORD} characters (max_input_chars_per_word)")


def _refused(why: str) -> ConfigError:
    return ConfigError(f"this model's tokenizer is not let at private rows: {why}")


def _parts(component: Any, children: str, known: set[str]) -> Iterator[dict[str, Any]]:  # noqa: ANN401 - of Rust
    """A component, and all of which it consists, as tokenizer.json writes them."""
    waiting = [json.loads(component.__getstate__())] if component is not None else []
    while waiting:
        part = waiting.pop()
        if part.get("type") not in known:
            raise _refused(f"a part of the type {part.get('type')!r} is not known")
        waiting += part.get(children, [])
        yield part


def _growth(part: dict[str, Any]) -> int:
    """How many times as long a normalizer may make a text."""
    if part["type"] == "Replace":
        _check_pattern(part)
        matched = part["pattern"].get("String")
        return -(-len(part["content"]) // len(matched)) if matched else len(part["content"]) + 1
    if part["type"] == "Prepend" and len(part["prepend"]) > _LONGEST_PREFIX:
        raise _refused(f"it puts more than {_LONGEST_PREFIX} characters before a text")
    return _longest_form(part["precompiled_charsmap"]) if part["type"] == "Precompiled" else 1


def _check_pattern(part: dict[str, Any]) -> None:
    pattern = part.get("pattern", {}).get("Regex")
    if pattern is None:
        return
    try:
        check_expression(pattern)
    except Unbounded as unbounded:
        raise _refused(f"of its expression {pattern[:60]!r}: {unbounded}") from None


def _longest_form(charsmap: str) -> int:
    """The longest text of SentencePiece's table of forms, in characters: a trie behind its size, then the texts."""
    table = base64.b64decode(charsmap)
    forms = table[4 + int.from_bytes(table[:4], "little") :]
    return max(1, *(len(form.decode("utf-8", "replace")) for form in forms.split(b"\0")))
