"""Where the public prompts of strategy public-prior come from: a file, a template, or the base model itself.

Nothing here can see a client: this module and ``public_gradients`` may import neither the private data nor what
carries messages (an import contract in pyproject.toml), and get a released adapter or none at all.
"""

import itertools
import re
import string
import textwrap
from collections.abc import Collection, Mapping, Sequence

import torch

from common.config import (
    PROMPTS_PER_CLIENT,
    SELF_GENERATED,
    TEMPLATE,
    ConfigError,
    PublicPriorConfig,
    read_prompts,
    read_words,
    slots_of,
)
from common.model.adapted import AdaptedModel
from common.model.token_ids import prompt_ids, token_ids

LABEL_TOKENS = 1
"""Most tokens that the model samples as a label."""
_PROMPT_TOKENS = 16  # longest continuation of the opening of a template
_BATCH, _BATCHES = 256, 16
_LONGEST_REASON = 160  # characters of a library's error that are passed on
_NEEDED = f'needs "{SELF_GENERATED}", "{TEMPLATE}", or a file with one prompt a line, text or JSON with "prompt"'
_NEEDED_WORDS = "needs a TOML file with one list of words for every slot of the template"


def public_prompts(
    adapted: AdaptedModel,
    settings: PublicPriorConfig,
    template: str,
    written: Mapping[str, str],
    evaluated: Collection[str],
    seed: int,
    longest: int,
) -> list[str]:
    """At most ``settings.pool`` distinct prompts, a seeded draw of what the source gives.

    Args:
        adapted: the model; self-generated prompts are sampled from it without its adapter (the initial one).
        settings: source and sizes.
        template: a prompt with ``{slots}``, of which self-generated texts are kept when they fit.
        written: the prompts of any other source, and how a reader finds each (``written_prompts``).
        evaluated: questions of the evaluation, which are left out.
        seed: of the draw and the sampling.
        longest: most tokens of a prompt together with its label (``data.max-length``); what the model writes itself
            is dropped beyond it.

    Raises:
        ConfigError: the source gives fewer prompts than a pseudo-client needs, or too long ones, or cannot be read.

    """
    if settings.prompts == SELF_GENERATED:
        found = _self_generated(adapted, settings, template, seed, longest)
    else:
        _check_lengths(adapted, settings, written, longest)
        found = list(written)
    distinct = [prompt for prompt in found if prompt not in evaluated]
    check_enough(settings, len(distinct))
    order = torch.randperm(len(distinct), generator=torch.Generator().manual_seed(seed))
    return [distinct[index] for index in order[: settings.pool].tolist()]


def check_enough(settings: PublicPriorConfig, count: int) -> None:
    """Raise ``ConfigError`` where a pseudo-client needs more than ``count`` prompts."""
    if count < PROMPTS_PER_CLIENT:
        raise ConfigError(
            f'public-prior.prompts = "{settings.prompts}": gave {count} prompts that the evaluation does not ask, and '
            f"a pseudo-client has {PROMPTS_PER_CLIENT}; {_more_prompts(settings)}"
        )


def _more_prompts(settings: PublicPriorConfig) -> str:
    """Where more prompts can come from, by the source that gave too few."""
    if settings.fills_template or settings.prompts == SELF_GENERATED:
        return f'look at public-prior.template = "{settings.template}" or give a file'
    return "write more lines into that file, each another prompt"


def sample(adapted: AdaptedModel, prompts: Sequence[str], new_tokens: int, seed: int) -> list[tuple[list[int], int]]:
    """Sample a continuation of every prompt from the model with the adapter that is loaded.

    Returns:
        For each prompt its tokens with the continuation behind them, and where that begins; it has 1 to ``new_tokens``
        tokens and ends before an end-of-sequence token.

    """
    adapted.training_mode(False)
    pad = adapted.tokenizer.pad_token_id or 0
    devices = [adapted.device] if adapted.device.type == "cuda" else []
    found: list[tuple[list[int], int]] = []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        for start in range(0, len(prompts), _BATCH):
            rows = prompt_ids(adapted.tokenizer, prompts[start : start + _BATCH])
            width = max(map(len, rows))
            ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=adapted.device)
            mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=adapted.device)
            output = adapted.model.generate(
                input_ids=ids,
                attention_mask=mask,
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                min_new_tokens=1,
                max_new_tokens=new_tokens,
                eos_token_id=adapted.tokenizer.eos_token_id,
                pad_token_id=pad,
            )
            for row, new in zip(rows, output[:, width:].tolist(), strict=True):
                found.append((row + _until_end(new, adapted.tokenizer.eos_token_id, pad), len(row)))
    return found


def _until_end(tokens: list[int], end: int | None, pad: int) -> list[int]:
    """Cut before the first end-of-sequence token, and drop padding."""
    kept = tokens[: tokens.index(end)] if end in tokens else tokens
    while len(kept) > 1 and kept[-1] == pad:
        kept = kept[:-1]
    return kept or tokens[:1]


def _self_generated(
    adapted: AdaptedModel, settings: PublicPriorConfig, template: str, seed: int, longest: int
) -> list[str]:
    """Let the base model go on from the template's opening, and keep what fits template and length, cut at its end."""
    pattern = _pattern(template)
    opening = template[: template.index("{")].rstrip() if "{" in template else template
    adapted.load(adapted.initial)
    found: dict[str, None] = {}
    for batch in range(_BATCHES):
        for tokens, _ in sample(adapted, [opening] * _BATCH, _PROMPT_TOKENS, seed + batch):
            fitting = pattern.match(str(adapted.tokenizer.decode(tokens, skip_special_tokens=True)))
            if fitting and _tokens(adapted, fitting.group(0)) + LABEL_TOKENS <= longest:
                found[fitting.group(0)] = None
        if len(found) >= settings.pool:
            break
    return list(found)


def _pattern(template: str) -> re.Pattern[str]:
    """The template as a regular expression: every slot stands for some text, as little as fits."""
    parts = string.Formatter().parse(template)
    return re.compile("".join(re.escape(text) + ("" if slot is None else "(.+?)") for text, slot, _, _ in parts))


def written_prompts(settings: PublicPriorConfig, template: str, questions: Sequence[str]) -> dict[str, str]:
    """The prompts of a template or a file, each once, and how a reader finds it; none where the model writes them.

    ``questions``: what ``template`` gives where no file names the slots' words. ``ConfigError`` where a file cannot be
    read.
    """
    path = settings.prompts
    if path == SELF_GENERATED:
        return {}
    try:
        if not settings.fills_template:
            return {text: f"line {number}" for text, number in read_prompts(path).items()}
        texts = _filled(template, path) if settings.names_words else questions
        return {text: f'"{textwrap.shorten(text, _LONGEST_REASON)}"' for text in texts}
    except (OSError, ValueError) as error:
        needed = _NEEDED_WORDS if settings.names_words else _NEEDED
        raise ConfigError(f'public-prior.prompts = "{path}": {_reason(error)}; {needed}') from error


def _filled(template: str, path: str) -> list[str]:
    """The template under every combination of the slots' words."""
    words = read_words(path, slots_of(template))
    return [template.format(**dict(zip(words, choice, strict=True))) for choice in itertools.product(*words.values())]


def _check_lengths(adapted: AdaptedModel, settings: PublicPriorConfig, places: Mapping[str, str], longest: int) -> None:
    """Refuse a prompt that leaves no room for its label: whole, it might pass the model's positions."""
    room = longest - LABEL_TOKENS
    for text, place in places.items():
        tokens = _tokens(adapted, text)
        if tokens > room:
            raise ConfigError(
                f'public-prior.prompts = "{settings.prompts}": {place} has {tokens} tokens, and {room} are allowed: '
                f"data.max-length = {longest} less {LABEL_TOKENS} for its label; shorten it"
            )


def _tokens(adapted: AdaptedModel, text: str) -> int:
    return len(token_ids(adapted.tokenizer, [text])[0])


def _reason(error: Exception) -> str:
    """An error in one short line: some hold, and would repeat, the whole file."""
    kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
    return f"{kind}{textwrap.shorten(str(error), _LONGEST_REASON)}"
