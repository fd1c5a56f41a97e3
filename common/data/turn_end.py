"""How an answer ends in a tokenizer's chat template: often not by the token that ends a text."""

from transformers import PreTrainedTokenizerBase

from common.config import DataConfig
from common.data.chat_template import TemplateFault, answer_tokens, render, shared
from common.data.chats import Message
from common.model.token_ids import token_ids

_ANSWERS = ("b", "c c")  # which differ in their last word, and in length for a tokenizer that knows neither


def turn_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The first token behind an answer that is no part of a text; none where the template writes none there.

    What two answers have in common at their end is the template's, whatever it writes before them or makes of them.
    Training teaches it with the answer.
    """
    try:
        texts = [render(tokenizer, _talk(answer)) for answer in _ANSWERS]
    except TemplateFault:
        return None
    one, other = token_ids(tokenizer, texts, special=False)
    alike = shared(one[::-1], other[::-1]) if one != other else 0
    signs = _signs(tokenizer)
    return next((number for number in one[len(one) - alike :] if number in signs), None)


def is_end_taught(tokenizer: PreTrainedTokenizerBase, data: DataConfig) -> bool:
    """Whether an answer in the chat template is learned with a token that ends it: the turn's, or the text's."""
    if turn_end(tokenizer) is not None:
        return True
    if tokenizer.eos_token_id is None or not data.append_eos:
        return False
    if data.format != "chat":
        return True
    try:
        ids, _ = answer_tokens(tokenizer, _talk(_ANSWERS[0]), end=True)
    except TemplateFault:
        return False
    return bool(ids[-1] == tokenizer.eos_token_id)


def _talk(answer: str) -> list[Message]:
    return [{"role": "user", "content": "a"}, {"role": "assistant", "content": answer}]


def _signs(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Tokens that stand for no words: the special ones and what was added to the vocabulary, but for white space."""
    added = {number for number, token in tokenizer.added_tokens_decoder.items() if str(token).strip()}
    return (added | set(tokenizer.all_special_ids)) - {tokenizer.unk_token_id}
