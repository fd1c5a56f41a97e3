"""What a model's tokenizer may do over private rows: it comes with the model, and much of it is a program.

Its expressions may take minutes over a text that its maker has guessed, and what it replaces may grow without end: both
would tell whether a site holds that text, by the time of an answer or the memory it takes. So a site with its own data
takes a tokenizer only where its parts are known and few, and none of them multiplies a text's work.
"""

import base64
import json
import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import BPE, Unigram, WordLevel, WordPiece
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from client_app.expressions import is_bounded
from common.config import ConfigError

MOST_GROWTH = 40
"""How many times as long all parts together may make a text: 4 in Llama 3, 12 in Qwen and BERT, 36 in XGLM."""
_MOST_PARTS, _MOST_EXPRESSIONS = 16, 8
_MOST_REPLACED = 4  # times as long by replacements, which a guessed text may be the cause of
_LONGEST_WORD, _LONGEST_PIECE, _LONGEST_AFFIX = 200, 64, 16  # characters; the work grows with their squares
NORMALIZERS = {
    **dict.fromkeys(("Sequence", "Nmt", "Precompiled", "Prepend", "Replace", "Strip", "StripAccents"), 1),
    **{"NFC": 3, "NFD": 4, "NFKC": 18, "NFKD": 18, "Lowercase": 3, "BertNormalizer": 12, "ByteLevel": 4},
}
"""How many characters a part may make of one by itself; Precompiled and Replace by what they hold."""
PRE_TOKENIZERS = {
    **dict.fromkeys(("Sequence", "BertPreTokenizer", "Delimiter", "CharDelimiterSplit", "Digits", "FixedLength"), 1),
    **dict.fromkeys(("Metaspace", "Punctuation", "Split", "UnicodeScripts", "Whitespace", "WhitespaceSplit"), 1),
    "ByteLevel": 4,
}


@lru_cache(maxsize=2)
def check_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise ``ConfigError`` unless the tokenizer's work is bounded by the length of a text. No text is looked at."""
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise _refused("it has no tokenizer.json, which alone can be looked through")
    backend = tokenizer.backend_tokenizer
    parts = [
        *((part, NORMALIZERS) for part in _parts(backend.normalizer, "normalizers")),
        *((part, PRE_TOKENIZERS) for part in _parts(backend.pre_tokenizer, "pretokenizers")),
    ]
    if len(parts) > _MOST_PARTS:
        raise _refused(f"it has more than {_MOST_PARTS} normalizers and pre-tokenizers")
    if sum("Regex" in part.get("pattern", {}) for part, _ in parts) > _MOST_EXPRESSIONS:
        raise _refused(f"it has more than {_MOST_EXPRESSIONS} expressions")
    growths = [(part.get("type"), _growth(part, known)) for part, known in parts]
    if math.prod(growth for _, growth in growths) > MOST_GROWTH:
        raise _refused(f"it may make a text over {MOST_GROWTH} times as long")
    if math.prod(growth for kind, growth in growths if kind == "Replace") > _MOST_REPLACED:
        raise _refused(f"what it replaces may make a text over {_MOST_REPLACED} times as long")
    _check_model(backend)


def _refused(why: str) -> ConfigError:
    return ConfigError(f"this model's tokenizer is not let at private rows: {why}")


def _parts(component: Any, children: str) -> Iterator[dict[str, Any]]:  # noqa: ANN401 - of Rust
    """A component, and all of which it consists, as tokenizer.json writes them."""
    waiting = [json.loads(component.__getstate__())] if component is not None else []
    while waiting:
        part = waiting.pop()
        waiting += part.get(children, [])
        yield part


def _growth(part: dict[str, Any], known: dict[str, int]) -> int:
    """How many times as long a part may make a text."""
    kind = str(part.get("type"))
    if kind not in known:
        raise _refused(f"a part of the type {kind!r} is not known")
    expression = part.get("pattern", {}).get("Regex")
    if expression is not None and not is_bounded(expression):
        raise _refused(f"its expression {expression[:60]!r} is neither a plain nor a published one")
    if kind == "Replace":
        matched = part["pattern"].get("String")
        return max(1, -(-len(part["content"]) // len(matched)) if matched else len(part["content"]) + 1)
    if kind == "Prepend" and len(part["prepend"]) > _LONGEST_AFFIX:
        raise _refused(f"it puts more than {_LONGEST_AFFIX} characters before a text")
    return _longest_form(part["precompiled_charsmap"]) if kind == "Precompiled" else known[kind]


def _longest_form(charsmap: str) -> int:
    """The longest text of SentencePiece's table of forms, in characters: a trie behind its size, then the texts."""
    table = base64.b64decode(charsmap)
    forms = table[4 + int.from_bytes(table[:4], "little") :]
    return max(1, *(len(form.decode("utf-8", "replace")) for form in forms.split(b"\0")))


def _check_model(backend: Tokenizer) -> None:
    model = backend.model
    if not isinstance(model, BPE | Unigram | WordLevel | WordPiece):
        raise _refused(f"its model {type(model).__name__} is not known")
    if getattr(model, "dropout", None):
        raise _refused("it draws the parts of a word at random (dropout)")
    if isinstance(model, WordPiece) and model.max_input_chars_per_word > _LONGEST_WORD:
        raise _refused(f"its words may be longer than {_LONGEST_WORD} characters (max_input_chars_per_word)")
    affixes = [getattr(model, name, None) or "" for name in ("continuing_subword_prefix", "end_of_word_suffix")]
    if any(len(affix) > _LONGEST_AFFIX for affix in affixes):
        raise _refused(f"what it adds to the parts of a word is longer than {_LONGEST_AFFIX} characters")
    if isinstance(model, Unigram):
        longest = max(map(len, backend.get_vocab(with_added_tokens=False)))
        if longest > _LONGEST_PIECE:
            raise _refused(f"its longest piece has {longest} characters, over {_LONGEST_PIECE}")
