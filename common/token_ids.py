"""Texts as token ids, in one way wherever a text is read: begin tokens once, no end token that nobody asked for.

Tokenizers differ in what they put around a text. Many begin it, some end it too (``add_eos_token``): an end token after
a prompt tells the model that the text is over, and after a choice it is scored with it.
"""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

_PROBE = "a"


def token_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, special: bool = True) -> list[list[int]]:
    """The tokens of every text, behind the tokenizer's begin tokens where ``special``, and never an added end token.

    A text in which the begin tokens are written gets no second ones.
    """
    if not texts:
        return []
    bare: list[list[int]] = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    begin = begin_ids(tokenizer) if special else []
    return [ids if ids[: len(begin)] == begin else begin + ids for ids in bare]


def begin_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What the tokenizer puts before a text; empty for most byte-level ones."""
    whole: list[int] = tokenizer(_PROBE)["input_ids"]
    bare: list[int] = tokenizer(_PROBE, add_special_tokens=False)["input_ids"]
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return whole[:start]
    return []


def split_at_word(prompt: str, completion: str) -> tuple[str, str]:
    """Move white space at the prompt's end to the completion, as lm-evaluation-harness does (``_encode_pair``).

    Most tokenizers write a space into the word that it stands before. A prompt that ends with one is a text that the
    model has hardly seen, and options of several words would be scored over different spans.
    """
    kept = prompt.rstrip()
    return kept, prompt[len(kept) :] + completion
