"""Texts to tokens: chat templates, end-of-text, masked prompts, truncation."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from common.config import ConfigError, DataConfig
from common.data.chat_template import TemplateFault, answer_tokens, check_chat_template, render, shared
from common.data.chats import MOST_MESSAGES, Message, ending, latest, read_messages
from common.data.table import MESSAGES
from common.data.tokenized import Spans, TokenizedExamples, cut, is_bare, packed
from common.model.token_ids import empty_ids, split_at_word, token_ids

_CHARACTERS = 128
"""For each token that may be kept, so many of a text's last characters are read: more than tokens have."""


def prompt_texts(rows: Dataset, data: DataConfig, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What the model reads before it completes: the rows' prompts, or their messages in the tokenizer's chat template.

    Of a conversation, all that comes before its last answer. Raises ``ConfigError`` when a template is asked for and
    the tokenizer has none, or cannot write a row.
    """
    found = _asked(rows, data, tokenizer)
    for number, text in enumerate(found, start=1):
        if isinstance(text, TemplateFault):
            what = 'data.format = "chat": conversation' if data.format == "chat" else "data.chat-template = true: row"
            raise ConfigError(f"{what} {number}: {text}")
    return [str(text) for text in found]


def _asked(rows: Dataset, data: DataConfig, tokenizer: PreTrainedTokenizerBase) -> list[str | TemplateFault]:
    """Each row's prompt, or why the template cannot write it."""
    if not data.templated:
        return list(rows[data.prompt_column])
    check_chat_template(data, tokenizer)
    if data.format == "chat":
        asked = [read_messages(text)[:-1] for text in rows[MESSAGES]]
    else:
        column = "message" if "message" in rows.column_names else data.prompt_column
        asked = [[{"role": "user", "content": message}] for message in rows[column]]
    return [_rendered(tokenizer, messages) for messages in asked]


def _rendered(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> str | TemplateFault:
    try:
        return render(tokenizer, messages, ask=True)
    except TemplateFault as fault:
        return fault


def completion_texts(texts: Sequence[str], data: DataConfig) -> list[str]:
    """Completions as the model shall write them: a chat template brings the white space before an answer itself."""
    return [text.strip() for text in texts] if data.templated else list(texts)


def encode(
    rows: Dataset,
    data: DataConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    end: bool,
    lenient: bool = False,
    pieces: bool = False,
) -> TokenizedExamples:
    """Rows with the configured columns as tokens; ``end`` puts the tokenizer's end-of-text after each completion.

    Of a conversation every answer is learned. ``lenient``: rows with nothing to learn, that a template cannot write,
    or that the tokenizer fails over, are left out, where others would raise ``ConfigError``. ``pieces``: a plain text
    over ``data.max-length`` becomes several examples, where it would lose its start. Of any other text no more is read
    than can be kept: one long row would hold up a site, and tell of itself by the time.
    """
    if data.format == "chat":
        check_chat_template(data, tokenizer)
        return _conversations(rows, data, tokenizer, end, lenient)
    prompts = _asked(rows, data, tokenizer) if lenient else prompt_texts(rows, data, tokenizer)
    asked = zip(prompts, rows[data.completion_column], strict=True)
    written = [(prompt, text) for prompt, text in asked if not isinstance(prompt, TemplateFault)]
    most = data.max_length if data.format == "text" and pieces else 0
    if not most:
        written = [_kept(prompt, text, data.max_length) for prompt, text in written]

    def read(some: Sequence[tuple[str, str]]) -> TokenizedExamples:
        return tokenize(
            tokenizer,
            [prompt for prompt, _ in some],
            completion_texts([text for _, text in some], data),
            data.max_length,
            end=end,
            special=not data.templated,
            lenient=lenient,
            piece=most,
        )

    try:
        return read(written)
    except BaseException as error:
        if not (lenient and _is_of_a_row(error)):
            raise
    return read([row for row in written if _is_readable(read, row)])


def _is_of_a_row(error: BaseException) -> bool:
    """Whether something was raised over a row, and not over this process, which is to end or has no memory.

    What a tokenizer raises, which is written in Rust, may be no ``Exception``: some words are too much for its
    expressions.
    """
    return not isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit | MemoryError | ConfigError)


def _is_readable(read: Callable[[Sequence[tuple[str, str]]], object], row: tuple[str, str]) -> bool:
    """Whether a row can be read by itself."""
    try:
        read([row])
    except BaseException as error:
        if not _is_of_a_row(error):
            raise
        return False
    return True


def _kept(prompt: str, completion: str, most: int) -> tuple[str, str]:
    """The end of both together, of which ``most`` tokens are kept."""
    room = _CHARACTERS * most
    completion = ending(completion, room)
    return ending(prompt, room - len(completion)), completion


def _conversations(
    rows: Dataset, data: DataConfig, tokenizer: PreTrainedTokenizerBase, end: bool, lenient: bool
) -> TokenizedExamples:
    found, unread = [], 0
    for number, text in enumerate(rows[MESSAGES], start=1):
        messages = read_messages(text)
        try:
            kept = _latest(tokenizer, messages, data.max_length)
            row = answer_tokens(tokenizer, kept, end=end)
        except BaseException as fault:
            if lenient and _is_of_a_row(fault):
                continue
            if not isinstance(fault, TemplateFault):
                raise
            raise ConfigError(f'data.format = "chat": conversation {number}: {fault}') from None
        if not is_bare(cut(row, data.max_length)):
            found.append(row)
            unread += len(kept) < len(messages) and len(row[0]) <= data.max_length
        elif not lenient:
            raise ConfigError(f'data.format = "chat": conversation {number} has no answer of any token to learn')
    examples = packed(found, tokenizer.pad_token_id, data.max_length)
    return replace(examples, shortened=examples.shortened + unread)


def _latest(tokenizer: PreTrainedTokenizerBase, messages: list[Message], most: int) -> list[Message]:
    """The end of a conversation, of which ``most`` tokens are kept: each answer costs the time of all that is read."""
    if len(messages) <= MOST_MESSAGES and sum(len(message["content"]) for message in messages) <= most:
        return messages  # as nearly all are: hardly a character is several tokens
    ends = [message | {"content": ending(message["content"], _CHARACTERS * most)} for message in messages]
    return latest(ends, most, lambda text: len(token_ids(tokenizer, [text], special=False)[0]))


def tokenize(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    completions: Sequence[str],
    max_length: int,
    *,
    end: bool = False,
    special: bool = True,
    questions: Sequence[int] | None = None,
    lenient: bool = False,
    piece: int = 0,
) -> TokenizedExamples:
    """Tokenize prompt + completion, right-padded; an example over ``max_length`` loses the start of its prompt.

    White space at a prompt's end belongs to the completion. An empty prompt is the tokenizer's begin-of-text, else its
    end-of-text. The completion begins at the first token in which the whole
    differs from the prompt alone, so a token that spans both is learned. ``end`` appends the end-of-text token where
    the tokenizer has one; without it there is none, whatever the tokenizer does by itself. ``special`` = false: a chat
    template has written the prompts, with their begin-of-text and their white space. ``questions``: number of every
    example's question; options of one question begin at the same token, so that they are scored over the same span.
    Raises ``ConfigError`` for an example with nothing to learn; ``lenient`` leaves it out. ``piece``: cut what is
    longer into pieces of so many tokens, of which each learns all but its first; 0: no pieces.
    """
    pairs = list(zip(prompts, completions, strict=True))
    if special:
        pairs = [split_at_word(prompt, completion) for prompt, completion in pairs]
    heads = token_ids(tokenizer, [prompt for prompt, _ in pairs], special=special)
    wholes = token_ids(tokenizer, [prompt + completion for prompt, completion in pairs], special=special)
    if special:
        wholes = _opened(heads, wholes, empty_ids(tokenizer))
    starts = [shared(head, whole) for head, whole in zip(heads, wholes, strict=True)]
    if questions is not None:
        starts = _earliest(starts, questions)
    last = [tokenizer.eos_token_id] if end and tokenizer.eos_token_id is not None else []
    wholes = [ids if ids[-1:] == last else ids + last for ids in wholes]
    rows: list[Spans] = [(ids, [(start, len(ids))]) for ids, start in zip(wholes, starts, strict=True)]
    if piece:
        rows = [part for row in rows for part in _pieces(row[0], piece)]
    bare = [index for index, row in enumerate(rows) if is_bare(cut(row, max_length))]
    if bare and not lenient:
        raise ConfigError(
            f"example {bare[0] + 1} has nothing to learn: its completion {completions[bare[0]]!r} gives no token that "
            "follows another one"
        )
    left_out = set(bare)
    return packed([row for index, row in enumerate(rows) if index not in left_out], tokenizer.pad_token_id, max_length)


def _pieces(ids: list[int], size: int) -> list[Spans]:
    """A text as pieces that share one token, so that each of its tokens but the first is learned once."""
    starts = range(0, max(1, len(ids) - 1), size - 1)
    parts = [ids[start : start + size] for start in starts]
    return [(part, [(1, len(part))]) for part in parts]


def _opened(heads: Sequence[list[int]], wholes: Sequence[list[int]], empty: list[int]) -> list[list[int]]:
    """Every whole, behind what stands for an empty prompt where the prompt is that: its first token is learned too."""
    bare = [head == empty and whole[: len(empty)] != empty for head, whole in zip(heads, wholes, strict=True)]
    return [empty + whole if missing else whole for whole, missing in zip(wholes, bare, strict=True)]


def _earliest(starts: Sequence[int], questions: Sequence[int]) -> list[int]:
    """Every start replaced by the earliest one of the same question."""
    first: dict[int, int] = {}
    for start, question in zip(starts, questions, strict=True):
        first[question] = min(start, first.get(question, start))
    return [first[question] for question in questions]
