"""Conversations as people keep them: ``messages`` of the chat APIs and ShareGPT's ``conversations``."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from common.data.example import Example
from common.data.raw import is_text

Message = dict[str, str]
"""``{"role": ..., "content": ...}`` with the role system, user or assistant."""
_ROLES = {
    "system": "system", "developer": "system", "user": "user", "human": "user", "assistant": "assistant",
    "gpt": "assistant", "chatgpt": "assistant", "model": "assistant", "bot": "assistant",
}  # fmt: skip
MOST_MESSAGES = 256
"""Of a longer conversation the last ones are read: to find its answers takes time that grows with their square."""
_SPARE = 8  # tokens
_UNLEARNED = {"0", "0.0"}  # weights of an answer that is not to be learned, as OpenAI's format has them


def chat_example(row: Mapping[str, Any]) -> Iterator[Example]:
    """A conversation up to its last answer; none for one without. Raises ``ValueError`` for what is no conversation.

    A column ``system`` beside it, which exports of ShareGPT have, is its first message where it has no such message.
    """
    messages = [*_system(row.get("system")), *conversation(row["messages"])]
    if [message["role"] for message in messages[:2]] == ["system", "system"]:
        messages.pop(0)
    while messages and messages[-1]["role"] != "assistant":
        messages.pop()
    if not messages:
        return
    *before, answer = messages
    if not any(message["role"] == "user" for message in before) or _first(messages) != "user":
        raise ValueError("the conversation begins with the assistant, whom nobody has asked; drop that turn")
    prompt = "\n\n".join(message["content"] for message in before)
    yield Example(
        prompt, answer["content"], message=before[-1]["content"], messages=json.dumps(messages, ensure_ascii=False)
    )


def read_messages(text: str) -> list[Message]:
    """The messages of an example, which carries them as JSON."""
    found: list[Message] = json.loads(text)
    return found


def latest(messages: list[Message], most: int, size: Callable[[str], int]) -> list[Message]:
    """The end of a conversation: its last ``MOST_MESSAGES``, or those whose texts have ``most`` tokens by ``size``.

    Before them the system message, and the question where they would begin with an answer; of these two, and of a text
    that is longer, no more than can be kept beside the others. A shorter conversation is as it was.
    """
    head = messages[:1] if messages[0]["role"] == "system" else []
    turns, kept, room = messages[len(head) :], list[Message](), most
    while len(kept) < min(MOST_MESSAGES, len(turns)) and room > 0:
        message = turns[-1 - len(kept)]
        text = shortest_end(message["content"], room, size)
        kept.insert(0, message | {"content": text})
        room -= size(text)
    first = len(turns) - len(kept)
    if kept[0]["role"] != "user":
        asked = next((place for place in range(first - 1, -1, -1) if turns[place]["role"] == "user"), first)
        head = [*head, *turns[asked : min(asked + 1, first)]]
    return [message | {"content": shortest_end(message["content"], max(room, 1), size)} for message in head] + kept


def shortest_end(text: str, most: int, size: Callable[[str], int]) -> str:
    """An end of a text that has ``most`` tokens by ``size``, or all of it; found by halves, so no more than twice that.

    A few more are left, since the first one may be another where a text is cut.
    """
    while size(half := text[len(text) // 2 :]) >= most + _SPARE and len(half) < len(text):
        text = half
    return text


def ending(text: str, most: int) -> str:
    """The last ``most`` characters of a text."""
    return text[max(0, len(text) - most) :]


def _first(messages: list[Message]) -> str:
    return next(message["role"] for message in messages if message["role"] != "system")


def conversation(value: object) -> list[Message]:
    """The turns of a list of messages, or of JSON that holds one. Raises ``ValueError`` for anything else."""
    if isinstance(value, str):  # a CSV or Parquet cell that holds JSON
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):  # the second: nested deeper than Python's stack
            raise ValueError("messages holds a text that is not JSON; a list of messages is needed") from None
    if not isinstance(value, list) or not value:
        raise ValueError("messages holds no list of messages")
    return [_message(message, place) for place, message in enumerate(value, start=1)]


def _system(value: object) -> list[Message]:
    if isinstance(value, Mapping | list):
        raise ValueError("system holds a list or a record; a text is needed")
    return [{"role": "system", "content": str(value)}] if value is not None and str(value).strip() else []


def _message(given: object, place: int) -> Message:
    if not isinstance(given, Mapping):
        raise ValueError(f'message {place} is no object with "role" and "content"')
    role = given.get("role", given.get("from"))
    if not isinstance(role, str) or role not in _ROLES:
        raise ValueError(f"message {place} has the role {role!r}: system, user and assistant are read (human, gpt)")
    if given.get("tool_calls") or given.get("function_call"):
        raise ValueError(f"message {place} calls a tool, which is not read")
    if _ROLES[role] == "assistant" and str(given.get("weight", 1)) in _UNLEARNED:
        raise ValueError(
            f'message {place} has "weight": 0, and every answer is learned; end the conversation before it'
        )
    return {"role": _ROLES[role], "content": _content(given.get("content", given.get("value")), place)}


def _content(value: object, place: int) -> str:
    """A text, or the texts of a list of parts."""
    if isinstance(value, list):
        parts = [part.get("text") for part in value if isinstance(part, Mapping) and part.get("type") == "text"]
        texts = [text for text in parts if isinstance(text, str)]
        value = "\n".join(texts) if len(texts) == len(value) else None
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"message {place} has no text")
    if not is_text(value):
        raise ValueError(f"message {place} holds half a surrogate pair, which is no text")
    return value
