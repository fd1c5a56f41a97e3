"""One thing to learn, whatever layout it came in."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Example:
    """One thing to learn.

    ``prompt`` is the whole text before ``completion`` (which begins with the white space that divides them);
    ``message`` is what a chat's user would say instead. ``choices`` are possible completions, the right one among them.
    ``messages``: of a conversation all turns, as JSON; every one of the assistant's is learned.
    """

    prompt: str
    completion: str
    message: str
    group: str = ""
    choices: tuple[str, ...] = ()
    messages: str = ""
