"""How an answer ends in a tokenizer's chat template: often not by the token that ends a text."""

from transformers import PreTrainedTokenizerBase

from common.config import DataConfig
from common.data.chat_template import TemplateFault, answer_tokens, render, shared
from common.data.chats import Message
from common.model.token_ids import token_ids

_BEFORE: tuple[list[Message], ...] = ([], [{"role": "system", "content": "a"}])
"""What may have to stand before a question: some templates refuse a conversation without instructions."""
_ANSWERS = ("b", "c c")  # which differ in their last word, and in length for a tokenizer that knows neither


def turn_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The first token behind an answer that is no part of a text; none where the template writes none there.

    What two answers have in common at their end is the template's, whatever it writes before them or makes of them.
    Chat models write it, and training on conversations teaches it with the answer.
    """
    texts = next(filter(None, (_texts(tokenizer, before) for before in _BEFORE)), None)
    if texts is None:
        return None
    one, other = token_ids(tokenizer, texts, special=False)
    alike = shared(one[::-1], other[::-1]) if one != other else 0
    signs = _signs(tokenizer)
    return next((number for number in one[len(one) - alike :] if number in signs), None)


def is_end_taught(tokenizer: PreTrainedTokenizerBase, data: DataConfig) -> bool:
    """Whether something ends an answer in the chat template: what ends a turn, or a text's end that is learned."""
    if turn_end(tokenizer) is not None:
        return True
    if tokenizer.eos_token_id is None or not data.append_eos:
        return False
    if data.format != "chat":
        return True
    return any(_ends_with_text(tokenizer, before) for before in _BEFORE)


def _texts(tokenizer: PreTrainedTokenizerBase, before: list[Message]) -> list[str] | None:
    """The same conversation with either answer; none where the template refuses it."""
    try:
        return [render(tokenizer, _talk(before, answer)) for answer in _ANSWERS]
    except TemplateFault:
        return None


def _ends_with_text(tokenizer: PreTrainedTokenizerBase, before: list[Message]) -> bool:
    try:
        ids, _ = answer_tokens(tokenizer, _talk(before, _ANSWERS[0]), end=True)
    except TemplateFault:
        return False
    return bool(ids[-1] == tokenizer.eos_token_id)


def _talk(before: list[Message], answer: str) -> list[Message]:
    return [*before, {"role": "user", "content": "a"}, {"role": "assistant", "content": answer}]


def _signs(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Tokens that stand for no words: the special ones and what was added to the vocabulary, but for white space."""
    added = {number for number, token in tokenizer.added_tokens_decoder.items() if str(token).strip()}
    return (added | set(tokenizer.all_special_ids)) - {tokenizer.unk_token_id}
