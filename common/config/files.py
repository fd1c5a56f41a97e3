"""The text files that a configuration names: whether they can be read and used, asked before anything starts."""

from pathlib import Path

from common.config.prompts import SELF_GENERATED, TEMPLATE, written_fault
from common.config.strategy_sections import PublicPriorConfig


def prior_file_faults(prior: PublicPriorConfig) -> list[str]:
    """What is wrong with the files of strategy public-prior, each with its key, value and what is right."""
    wanted = []
    if prior.prompts not in (SELF_GENERATED, TEMPLATE):
        right = f'"{SELF_GENERATED}", "{TEMPLATE}", or a file with one prompt a line'
        wanted.append(("public-prior.prompts", prior.prompts, right))
    if prior.prompts == TEMPLATE and prior.slots:
        wanted.append(("public-prior.slots", prior.slots, "a TOML file with one list of words for every slot"))
    whys = [(key, path, text_fault(path) or written_fault(prior), right) for key, path, right in wanted]
    return [f'{key} = "{path}": {why}; give {right}' for key, path, why, right in whys if why]


def text_fault(path: str) -> str:
    """Why ``path`` is no file of text with something in it, or ``""``."""
    place = Path(path)
    if not place.exists():
        return "no such file"
    if not place.is_file():
        return "this is no file"
    try:
        text = place.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        return f"this is no text in UTF-8 ({error.reason} at byte {error.start})"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return "" if text.strip() else "the file is empty"
