"""The private tasks of the embedded model, as datasets of prompt, completion, group and relation.

``elicitation``
    The base knows the facts, yet answers at random in the private template. Clients teach it the template;
    evaluation asks about facts that no client holds, so it measures behavior and not memory.
``elicitation-validation``
    The same with the questions of its two splits exchanged: for choosing step sizes off the facts that are evaluated.
``knowledge``
    Facts withheld from the base, asked in a public template that it answers well for others. Each fact is held by
    many clients, and evaluation asks for those same facts.
``knowledge-validation``
    The same with other subjects, for the same purpose.
"""

import random
from collections.abc import Callable
from itertools import cycle, islice
from typing import NamedTuple

from datasets import Dataset

from common.demo.facts import GROUPS, PRIVATE_PROMPT, PUBLIC_PROMPTS, Fact, answers_of, facts_of, split_known
from common.demo.task_names import TASKS, VALIDATION

__all__ = [
    "CHOICES",
    "DRAWS",
    "TASKS",
    "VALIDATION",
    "evaluation_examples",
    "splits_of",
    "training_examples",
]

CHOICES = 4
DRAWS = 2
"""Evaluation questions per fact, each with its own distractors."""

_PUBLIC_PROMPT = PUBLIC_PROMPTS[0]
_TRAIN = "train"


class _Part(NamedTuple):
    """What is asked of which facts, and the name that its draws have as their seed."""

    prompt: str
    facts: Callable[[], tuple[Fact, ...]]
    drawn_as: str


def _known(part: str) -> Callable[[], tuple[Fact, ...]]:
    return lambda: split_known()[part]


def _new(section: str) -> Callable[[], tuple[Fact, ...]]:
    return lambda: facts_of(section)


_ELICITATION = {
    _TRAIN: _Part(PRIVATE_PROMPT, _known("train"), "elicitation"),
    "evaluation": _Part(PRIVATE_PROMPT, _known("evaluation"), "elicitation/evaluation"),
    "validation": _Part(PRIVATE_PROMPT, _known("validation"), "elicitation/validation"),
    "retention": _Part(_PUBLIC_PROMPT, _known("evaluation"), "elicitation/retention"),
}
_PARTS: dict[str, dict[str, _Part]] = {
    "elicitation": _ELICITATION,
    "elicitation-validation": {
        **_ELICITATION,
        "evaluation": _ELICITATION["validation"],
        "validation": _ELICITATION["evaluation"],
    },
    **{
        section: {
            _TRAIN: _Part(_PUBLIC_PROMPT, _new(section), section),
            "evaluation": _Part(_PUBLIC_PROMPT, _new(section), f"{section}/evaluation"),
            "retention": _Part(_PUBLIC_PROMPT, _known("evaluation"), f"{section}/retention"),
        }
        for section in ("knowledge", "knowledge-validation")
    },
}


def training_examples(task: str, count: int, seed: int) -> Dataset:
    """Draw ``count`` training examples with replacement, balanced over the four groups.

    Columns: prompt, completion (begins with a space), group, relation. ``seed`` decides the draw,
    not the split. Raises ``ValueError`` for an unknown task.
    """
    part = _parts(task)[_TRAIN]
    by_group = {group: [fact for fact in part.facts() if fact.group == group] for group in GROUPS}
    rng = random.Random(f"{part.drawn_as}/{seed}")
    drawn = [rng.choice(by_group[group]) for group in islice(cycle(GROUPS), count)]
    rng.shuffle(drawn)
    return Dataset.from_list([_row(fact, part.prompt) for fact in drawn])


def evaluation_examples(task: str, split: str, seed: int) -> Dataset:
    """List the questions of a split, two per fact, each a choice of four answers of the same relation.

    Columns as for training, and ``choices``: four strings in random order, the completion among them.
    ``seed`` decides distractors and order. Raises ``ValueError`` for an unknown task, or a split that the
    task does not have.
    """
    if split not in splits_of(task):
        raise ValueError(f"task {task!r} has no split {split!r}; allowed: {', '.join(splits_of(task))}")
    part = _parts(task)[split]
    rng = random.Random(f"{part.drawn_as}/{seed}")
    rows = [_row(fact, part.prompt) | {"choices": _choices(fact, rng)} for fact in part.facts() for _ in range(DRAWS)]
    return Dataset.from_list(rows)


def splits_of(task: str) -> tuple[str, ...]:
    """Names that ``evaluation_examples`` takes as the split of a task."""
    return tuple(split for split in _parts(task) if split != _TRAIN)


def _parts(task: str) -> dict[str, _Part]:
    if task not in _PARTS:
        raise ValueError(f"unknown task {task!r}; allowed: {', '.join(TASKS)}")
    return _PARTS[task]


def _row(fact: Fact, prompt: str) -> dict[str, object]:
    return {
        "prompt": fact.fill(prompt),
        "completion": f" {fact.answer}",
        "group": fact.group,
        "relation": fact.relation,
    }


def _choices(fact: Fact, rng: random.Random) -> list[str]:
    others = [answer for answer in answers_of(fact.relation) if answer != fact.answer]
    choices = [f" {answer}" for answer in (fact.answer, *rng.sample(others, CHOICES - 1))]
    rng.shuffle(choices)
    return choices
