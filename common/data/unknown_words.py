"""Words that a tokenizer has no token for: it writes one and the same in place of each of them."""

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from common.data.tokenized import IGNORED, TokenizedExamples

_MANY = 0.1  # share of a text's tokens from which on a person should know


def unknown_share(tokens: TokenizedExamples, tokenizer: PreTrainedTokenizerBase) -> tuple[float, float]:
    """Shares of the tokens, but for special ones, that stand for unknown words: of all, and of those to be learned.

    0 where the tokenizer writes any text in parts of words.

    Byte-level tokenizers name a special token there that they never write, often the end-of-text.
    """
    unknown = tokenizer.unk_token_id
    if unknown is None or unknown in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id):
        return 0.0, 0.0
    marks = torch.tensor(sorted({*tokenizer.all_special_ids} - {unknown}), dtype=torch.long)
    words = tokens.attention_mask.bool() & ~torch.isin(tokens.input_ids, marks)
    lacking, learned = tokens.input_ids == unknown, words & (tokens.labels != IGNORED)
    return _share(lacking, words), _share(lacking, learned)


def _share(found: Tensor, among: Tensor) -> float:
    return int((found & among).sum()) / max(1, int(among.sum()))


def unknown_words(shares: tuple[float, float], what: str, model: str) -> str:
    """A warning where many words of ``what``, or of what is learned of it, are unknown to the model, else ``""``."""
    of_all, of_learned = shares
    if max(shares) < _MANY:
        return ""
    of = f"{of_all:.0%} of its words" if of_all >= of_learned else f"{of_learned:.0%} of the words that it shall write"
    known = "the demo's model knows the words of its own facts, in lower case" if model == "demo" else ""
    return (
        f'{what}: model.name = "{model}" has no token for {of} and reads one and the same sign for '
        f"all of them, so it cannot learn them{known and '; '}{known}; name a model that knows these texts"
    )
