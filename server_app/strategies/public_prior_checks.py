"""What strategy public-prior refuses of a configuration, before anything starts; imports nothing heavy."""

from pathlib import Path

from common.config import SELF_GENERATED, TEMPLATE, RunConfig, template_faults, written_fault


def faults(config: RunConfig) -> list[str]:
    """What the strategy cannot do, each with its key, value and what is right."""
    prior, codec, found = config.public_prior, config.codec, []
    if (codec.kind, codec.form) != ("linear", "global"):
        found.append(
            f'codec.kind = "{codec.kind}" and codec.form = "{codec.form}": strategy public-prior needs "linear" and '
            '"global"'
        )
    if not 1 <= codec.size <= prior.pseudo_clients:
        found.append(
            f"codec.size = {codec.size} is out of range for strategy public-prior: allowed are 1 to "
            f"{prior.pseudo_clients}, as many as public-prior.pseudo-clients"
        )
    if prior.delivery == "rebuild" and config.model.quantization != "none":
        found.append(
            f'public-prior.delivery = "rebuild" with model.quantization = "{config.model.quantization}": quantized '
            'layers have no forward-mode derivative; set it to "basis"'
        )
    return found + template_faults(prior, config.data.name)


def file_faults(config: RunConfig) -> list[str]:
    """What is wrong with the file of prompts or words, with its key, value and what is right."""
    prior = config.public_prior
    if not prior.names_file:
        return []
    why = _text_fault(prior.prompts) or written_fault(prior)
    words = "a TOML file with one list of words for every slot"
    right = words if prior.names_words else f'"{SELF_GENERATED}", "{TEMPLATE}", or a file with one prompt a line'
    return [f'public-prior.prompts = "{prior.prompts}": {why}; give {right}'] if why else []


def _text_fault(path: str) -> str:
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
