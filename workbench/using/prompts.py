"""A file of prompts: one text a line, or rows with a prompt, a conversation or the columns of the run's format."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.config import ConfigError, DataConfig
from common.data import FORMATS
from common.data.chats import Message, conversation
from common.data.files import rows_of_file
from common.data.raw import FileFault, RowFault
from common.file_names import kind_of

_REFERENCE = "reference"  # column of the answers in what ``generate`` writes


@dataclass(frozen=True)
class Prompt:
    """What is asked, and what the file has as its answer, or ``""``; ``told``: the file has it as messages."""

    messages: list[Message]
    reference: str = ""
    told: bool = False

    def row(self) -> dict[str, Any]:
        """The prompt as a file has it, to be read again."""
        asked = {"messages": self.messages} if self.told else {"prompt": self.messages[-1]["content"]}
        return asked | ({_REFERENCE: self.reference} if self.reference else {})


def read_prompts(path: Path, data: DataConfig, *, templated: bool) -> list[Prompt]:
    """The prompts of a file in their order. Raises ``ConfigError`` for a row that holds none."""
    if not kind_of(path):
        return _some(path, [_said(line) for line in _text(path).split("\n") if line.strip()])
    found = []
    try:
        for number, row in enumerate(rows_of_file(path), start=1):
            try:
                found.append(_prompt(row, data, templated))
            except ValueError as error:
                raise ConfigError(f'--prompts "{path}": row {number}: {error}') from None
    except FileFault as error:
        raise ConfigError(f'--prompts "{path}": {error}') from None
    return _some(path, found)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f'--prompts "{path}": {error.strerror}') from None
    except UnicodeDecodeError as error:
        byte = f"byte {error.object[error.start]:#04x} at {error.start}"
        raise ConfigError(f'--prompts "{path}": not text in UTF-8 ({byte}); save it as UTF-8') from None


def _some(path: Path, found: list[Prompt]) -> list[Prompt]:
    if not found:
        raise ConfigError(f'--prompts "{path}": there is no prompt in it')
    return found


def _said(text: str, reference: str = "") -> Prompt:
    return Prompt([{"role": "user", "content": text}], reference)


def _prompt(row: Mapping[str, Any] | RowFault, data: DataConfig, templated: bool) -> Prompt:
    if isinstance(row, RowFault):
        raise ValueError(row.reason)
    chat = FORMATS["chat"].renamed(row).get("messages")
    if chat is not None:
        return _asked(conversation(chat), _text_in(row, _REFERENCE))
    layout = FORMATS.get(data.format)
    if layout is not None and layout.has_columns(row):
        example = next(layout.examples(row), None)
        if example is None:
            raise ValueError("it has no answer, so that it is no example of the run's format; name its prompt column")
        return _said(example.message if templated else example.prompt, example.completion.strip())
    columns = [name for name in data.prompt_columns if name in row] or [name for name in ("prompt",) if name in row]
    texts = [str(row[name]) for name in columns if isinstance(row[name], str) and row[name].strip()]
    if not texts:
        named = ", ".join(dict.fromkeys((*data.prompt_columns, "prompt", "messages")))
        raise ValueError(f"no text in any of {named}; it has {', '.join(row)}")
    return _said("\n\n".join(texts), _text_in(row, data.completion_column) or _text_in(row, _REFERENCE))


def _text_in(row: Mapping[str, Any], column: str) -> str:
    return str(row.get(column) or "").strip()


def _asked(messages: list[Message], reference: str) -> Prompt:
    """A conversation up to its last question, with what was answered there, or ``reference``."""
    last = max((place for place, message in enumerate(messages) if message["role"] == "user"), default=-1)
    if last < 0:
        raise ValueError("nobody asks anything in its messages")
    answer = messages[last + 1]["content"] if last + 1 < len(messages) else reference
    return Prompt(messages[: last + 1], answer, told=True)
