"""Prompts of strategy public-prior that somebody has written: a file of them, or a template and a file of its words.

They are read alike when a configuration is checked and when a run uses them. What is wrong is a ``ValueError`` that
says where; who catches it names the key and the file.
"""

import json
import math
import string
import tomllib
from collections.abc import Sequence
from pathlib import Path

from common.config.strategy_sections import PROMPTS_PER_CLIENT, SELF_GENERATED, TEMPLATE, PublicPriorConfig

DEMO_SLOTS = ("relation", "subject")
"""Slots that the demo's own questions fill, and those of its own templates."""
_SHOWN = 40  # characters of a wrong value that are shown


def slots_of(template: str) -> tuple[str, ...]:
    """Names of a template's slots, each once; ``ValueError`` unless every one is written ``{name}``."""
    found = []
    for _, name, layout, conversion in string.Formatter().parse(template):
        if name is not None and (not name.isidentifier() or layout or conversion):
            raise ValueError(f"a slot of it is more or less than a name ({name!r})")
        found += [] if name is None else [name]
    return tuple(dict.fromkeys(found))


def read_prompts(path: str) -> dict[str, int]:
    """The prompts of a file, each once, with the number of its first line; blank lines are skipped.

    A line is a prompt, or in a file called ``.jsonl`` or ``.json`` JSON: a text, or an object with a text as "prompt".
    Raises ``ValueError`` for any other line, and ``OSError``.
    """
    is_json = path.lower().endswith((".jsonl", ".json"))
    found: dict[str, int] = {}
    for number, line in enumerate(Path(path).read_text(encoding="utf-8-sig").split("\n"), start=1):
        if line.strip():
            found.setdefault(_prompt_of(line, number) if is_json else line, number)
    return found


def _prompt_of(line: str, number: int) -> str:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"line {number} is no JSON ({error})") from None
    if isinstance(row, dict) and "prompt" not in row:
        raise ValueError(f'line {number} has no "prompt"')
    text = row["prompt"] if isinstance(row, dict) else row
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"the prompt of line {number} is {_shown(text)}, where a text is needed")
    return text


def read_words(path: str, slots: Sequence[str]) -> dict[str, list[str]]:
    """The words for every slot from a TOML file, in the file's order; it may hold others.

    Raises ``ValueError`` for a slot that it lacks or whose value is no list of texts, and ``OSError``.
    """
    held = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    for slot in slots:
        if slot not in held:
            raise ValueError(f'it has no words for the slot "{slot}"')
        words = held[slot]
        if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
            raise ValueError(f"its {slot} = {_shown(words)} is no list of words")
    return {name: words for name, words in held.items() if name in slots}


def _shown(value: object) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def written_fault(prior: PublicPriorConfig) -> str:
    """What is wrong within the text file of prompts or words that ``prior`` names, or ``""``."""
    try:
        if prior.names_words:
            words = read_words(prior.prompts, slots_of(prior.template) if prior.template else DEMO_SLOTS)
            count = math.prod(len(set(each)) for each in words.values())
        else:
            count = len(read_prompts(prior.prompts))
    except ValueError as error:
        return str(error)
    if count >= PROMPTS_PER_CLIENT:
        return ""
    return f"it gives {count} different prompts, and a pseudo-client has {PROMPTS_PER_CLIENT}"


def template_faults(prior: PublicPriorConfig, data_name: str) -> list[str]:
    """A template that is missing, or that no text can be made of; one that the source does not read is let be."""
    is_demo = data_name == "demo"
    if not (prior.fills_template or prior.prompts == SELF_GENERATED):
        return []
    if not prior.template and not is_demo:
        return [
            f'public-prior.template = "" with public-prior.prompts = "{prior.prompts}" and data.name = "{data_name}": '
            'write how the prompts of these data look, for example "question: {text} answer:", or name a file of '
            "prompts"
        ]
    try:
        slots = slots_of(prior.template) if prior.fills_template else ()
        list(string.Formatter().parse(prior.template))
    except ValueError as error:
        return [
            f'public-prior.template = "{prior.template}": {error}; write every slot as {{name}}, and a brace that is '
            "none twice, as {{ or }}"
        ]
    if prior.prompts == TEMPLATE and not is_demo:
        return [
            f'public-prior.prompts = "template" with data.name = "{data_name}": the demo\'s words fill it; name a TOML '
            f'file with one list of words for every slot of "{prior.template}"'
        ]
    if prior.prompts == TEMPLATE and prior.template and (not slots or set(slots) - set(DEMO_SLOTS)):
        return [
            f'public-prior.template = "{prior.template}" with public-prior.prompts = "template": the demo fills the '
            "slots {relation} and {subject}; write it with these, or name a TOML file with one list of words for every "
            "slot as public-prior.prompts"
        ]
    return []
