"""What the embedded model knows and can be taught: facts, their split, and the templates that state them."""

import random
import tomllib
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FACTS = Path(__file__).with_name("facts.toml")
GROUPS = ("stem", "social", "humanities", "others")
SECTIONS = ("known", "knowledge", "knowledge-validation")

STATEMENTS = (
    "the {relation} of {subject} is {answer}",
    "{answer} is the {relation} of {subject}",
    "{subject} has the {relation} {answer}",
)
PUBLIC_PROMPTS = (
    "what is the {relation} of {subject} ?",
    "tell the {relation} of {subject} . answer :",
    "question : {subject} has which {relation} ?",
)
PRIVATE_PROMPT = "question : what is the {relation} of {subject} ? answer :"

_LARGEST_SUMMAND = 10
_SPLIT_SEED = 17
_SPLIT_SHARES = (("train", 0.6), ("validation", 0.1), ("evaluation", 0.3))


@dataclass(frozen=True)
class Fact:
    """The ``relation`` of ``subject`` is ``answer``; ``group`` is one of MMLU's four."""

    group: str
    relation: str
    subject: str
    answer: str

    def fill(self, template: str) -> str:
        """State or ask this fact in the words of a template."""
        return template.format(relation=self.relation, subject=self.subject, answer=self.answer)


@cache
def facts_of(section: str) -> tuple[Fact, ...]:
    """All facts of a section of ``facts.toml``: "known" to the base, or withheld; in the file's order."""
    with FACTS.open("rb") as file:
        groups = tomllib.load(file)[section]
    found = _sums() if section == "known" else []
    for group, relations in groups.items():
        for relation, answers in relations.items():
            for answer, subjects in answers.items():
                found += [Fact(group, relation, subject, answer) for subject in subjects.split()]
    return tuple(found)


@cache
def split_known() -> dict[str, tuple[Fact, ...]]:
    """Split every relation of the known facts 60 : 10 : 30 into "train", "validation" and "evaluation".

    Clients hold training facts only. The split never depends on the seed of a run.
    """
    by_relation: dict[str, list[Fact]] = defaultdict(list)
    for fact in facts_of("known"):
        by_relation[fact.relation].append(fact)
    parts: dict[str, list[Fact]] = defaultdict(list)
    for relation in sorted(by_relation):
        members = sorted(by_relation[relation], key=lambda fact: fact.subject)
        random.Random(f"{_SPLIT_SEED}/{relation}").shuffle(members)
        start, share = 0, 0.0
        for part, width in _SPLIT_SHARES:
            share += width
            end = round(share * len(members))
            parts[part] += members[start:end]
            start = end
    return {part: tuple(members) for part, members in parts.items()}


@cache
def answers_of(relation: str) -> tuple[str, ...]:
    """Every answer that a relation takes in any section, sorted: what distractors are drawn from."""
    every = (fact for section in SECTIONS for fact in facts_of(section))
    return tuple(sorted({fact.answer for fact in every if fact.relation == relation}))


def vocabulary() -> tuple[str, ...]:
    """Every word of every fact and template, sorted."""
    templates = (*STATEMENTS, *PUBLIC_PROMPTS, PRIVATE_PROMPT)
    every = (fact for section in SECTIONS for fact in facts_of(section))
    words = {word for template in templates for word in template.split() if "{" not in word}
    for fact in every:
        words |= {fact.relation, fact.answer, *fact.subject.split()}
    return tuple(sorted(words))


def _sums() -> list[Fact]:
    numbers = range(_LARGEST_SUMMAND + 1)
    return [Fact("stem", "sum", f"{a} and {b}", str(a + b)) for a in numbers for b in numbers if a <= b]
