"""Texts as token ids, in one way wherever a text is read: begin tokens once, no end token that nobody asked for.

Tokenizers differ in what they put around a text. Many begin it, some end it too (``add_eos_token``): an end token after
a prompt tells the model that the text is over, and after a choice it is scored with it.
"""

from collections.abc import Sequence

from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from common.config import ConfigError

_PROBE = "a"


def token_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, special: bool = True) -> list[list[int]]:
    """The tokens of every text, behind the tokenizer's begin tokens where ``special``, and never an added end token.

    A text in which the begin tokens are written gets no second ones. One without any token is ``empty_ids``, for a
    model says nothing of a first token.
    """
    if not texts:
        return []
    quiet = {"verbose": False}  # a text longer than the model is cut by who asked, so nothing fails as it would warn
    bare: list[list[int]] = tokenizer(list(texts), add_special_tokens=False, **quiet)["input_ids"]
    begin, empty = (begin_ids(tokenizer), empty_ids(tokenizer)) if special else ([], [])
    return [(ids if ids[: len(begin)] == begin else begin + ids) or empty for ids in bare]


def prompt_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, special: bool = True) -> list[list[int]]:
    """``token_ids`` of texts that a model shall continue. Raises ``ConfigError`` for one that has no token at all."""
    found = token_ids(tokenizer, texts, special=special)
    if [] in found:
        raise ConfigError(
            f"prompt {found.index([]) + 1} is empty, and the model's tokenizer has no begin-of-text or end-of-text "
            "token to start from: give it some text"
        )
    return found


def empty_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What stands for a text without tokens: the begin tokens, else one of begin- or end-of-text, else nothing.

    Tokenizers that begin no text (GPT-2, Qwen) have seen every document behind an end-of-text; the evaluation harness
    takes the same token (``prefix_token_id``).
    """
    starts = (tokenizer.bos_token_id, tokenizer.eos_token_id)
    return begin_ids(tokenizer) or [start for start in starts if start is not None][:1]


def begin_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What the tokenizer puts before a text; empty for most byte-level ones."""
    whole: list[int] = tokenizer(_PROBE)["input_ids"]
    bare: list[int] = tokenizer(_PROBE, add_special_tokens=False)["input_ids"]
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return whole[:start]
    return []


def leave_ends_open(tokenizer: PreTrainedTokenizerBase) -> None:
    """Keep a tokenizer from ending texts by itself, for libraries that call it as it is (the evaluation harness).

    Only the begin tokens stay. One without a fast backend is left alone: ``token_ids`` needs no such change.
    """
    begin, bare = begin_ids(tokenizer), tokenizer(_PROBE, add_special_tokens=False)["input_ids"]
    if len(tokenizer(_PROBE)["input_ids"]) == len(begin) + len(bare) or not isinstance(
        tokenizer, PreTrainedTokenizerFast
    ):
        return
    names = [str(name) for name in tokenizer.convert_ids_to_tokens(begin)]
    single = [*names, "$A"]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=single, pair=[*single, "$B:1"], special_tokens=list(dict(zip(names, begin, strict=True)).items())
    )


def split_at_word(prompt: str, completion: str) -> tuple[str, str]:
    """Move white space at the prompt's end to the completion, as lm-evaluation-harness does (``_encode_pair``).

    Most tokenizers write a space into the word that it stands before. A prompt that ends with one is a text that the
    model has hardly seen, and options of several words would be scored over different spans.
    """
    kept = prompt.rstrip()
    return kept, prompt[len(kept) :] + completion
