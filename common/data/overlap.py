"""Whether public examples are public: a run publishes their losses, so no client may hold them."""

import logging
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from datasets import Dataset

from common.config import ConfigError, DataConfig
from common.counts import count
from common.data.chats import read_messages
from common.data.partition import evaluation_examples, shared_examples, validation_examples
from common.data.table import MESSAGES
from common.file_names import names_a_file

_log = logging.getLogger(__name__)
_UNSEEN = ("Cc", "Cf", "Cn")  # controls, formats; code points of nothing, some of which are kept for what is not seen
_BLANK = re.compile(  # the others of Default_Ignorable_Code_Point (Unicode 4.4): joiners, fillers, selectors; Braille's
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


def check_evaluation_is_public(data: DataConfig, clients: int, seed: int) -> None:
    """Refuse ``data.evaluation`` and ``data.validation`` if they hold rows of the clients: prompt and completion.

    Refused too where both hold a row, since what decides would then be scored. Rows are compared as one text (of a
    conversation one for each of its answers), letter for letter but for white space, wherever it stands, case, how
    Unicode writes a letter (an umlaut as one character or two, full width or half) and characters that cannot be seen.
    What simulated clients hold is read from ``data.name``; sites with files of their own are not looked into, nor can
    they be. ``clients`` and ``seed`` decide what the embedded data give them. Raises ``ConfigError`` with the number of
    such rows.
    """
    public = {
        key: (name, list(_normalized(rows, data)))
        for key, name, load in (
            ("evaluation", data.evaluation, evaluation_examples),
            ("validation", data.validation, validation_examples),
        )
        if name and (rows := load(data, seed)) is not None
    }
    if len(public) == 2:
        name, asked = public["validation"]
        scored = {text for texts in public["evaluation"][1] for text in texts}
        if rows := _shared(asked, scored):
            raise ConfigError(
                f'data.validation = "{name}": {len(rows)} of its {count(len(asked), "example")} are in data.evaluation '
                f"too, the first is number {rows[0]}: what decides must not be what is scored"
            )
    rows = _held(data, clients, seed) if public else None
    if rows is None:
        return
    held = {text for texts in _normalized(rows, data) for text in texts}
    for key, (name, asked) in public.items():
        if found := _shared(asked, held):
            raise ConfigError(
                f'data.{key} = "{name}": {len(found)} of its {count(len(asked), "example")} are among those that the '
                f'clients train on (data.name = "{data.name}"), the first is number {found[0]}. A run publishes the '
                "losses of its held-out examples: leave these out, or name other ones"
            )


def _held(data: DataConfig, clients: int, seed: int) -> Dataset | None:
    """All rows of the clients; ``None`` where they are not here, or cannot be read, which is logged."""
    if not _readable(data):
        return None
    try:
        return shared_examples(data, clients, seed)
    except ConfigError as error:
        _log.warning("the held-out rows could not be compared with data.name: %s", error)
        return None


def _shared(asked: list[list[str]], others: set[str]) -> list[int]:
    """The numbers, from 1, of the rows of which a text is among the others."""
    return [number for number, texts in enumerate(asked, start=1) if not others.isdisjoint(texts)]


def _readable(data: DataConfig) -> bool:
    """Whether the clients' rows may be here; a deployment's server has none, for its sites have their own."""
    if data.name == "demo":
        return (data.format, data.prompt_column, data.completion_column) == ("columns", "prompt", "completion")
    return not names_a_file(data.name) or Path(data.name).expanduser().exists()


def _normalized(rows: Dataset, data: DataConfig) -> Iterator[list[str]]:
    """Of each row the text that is learned; of a conversation one for each answer, with all that comes before it."""
    if data.format == "chat":
        for told in rows[MESSAGES]:
            messages = read_messages(told)
            ends = [end for end, message in enumerate(messages, start=1) if message["role"] == "assistant"]
            yield [_plain(" ".join(message["content"] for message in messages[:end])) for end in ends]
        return
    for prompt, completion in zip(rows[data.prompt_column], rows[data.completion_column], strict=True):
        yield [_plain(f"{prompt}{completion}")]  # wherever the text is cut in two, the model learns the same


def _plain(text: str) -> str:
    """Compatibility caseless form (Unicode 3.13, D146) of what can be seen."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return unicodedata.normalize("NFKC", "".join(letter for letter in folded if _is_seen(letter)))


def _is_seen(letter: str) -> bool:
    """Not white space, a control or format character, or another that leaves nothing where it stands."""
    return not (letter.isspace() or unicodedata.category(letter) in _UNSEEN or _BLANK.fullmatch(letter))
