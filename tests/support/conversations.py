"""Conversations of tests, and a template that writes them."""

from common.config import DataConfig

CHAT = DataConfig(format="chat")
CHATML = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '</s>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)


def turns(*texts: str) -> list[dict[str, str]]:
    """Texts of the user and the assistant by turns."""
    return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]
