"""The public pretraining corpus: what the base model reads before any client teaches it anything."""

import random
from collections.abc import Iterator

from common.demo.facts import PRIVATE_PROMPT, PUBLIC_PROMPTS, STATEMENTS, answers_of, facts_of

STATEMENT_SHARE = 0.45
QUESTION_SHARE = 0.35


def documents(seed: int) -> Iterator[str]:
    """Draw documents without end: 45 % statements, 35 % public questions, 20 % private questions.

    The private template always carries a *random* answer of the right relation. The base therefore knows the
    facts, and what the template looks like, but not that an answer there should be true: clients teach that.
    The public prompts share the template's opening or its ending, so that only both together mark it: with
    prompts that share neither, clients need about three times as many rounds to teach the private task.
    """
    rng = random.Random(seed)
    known = facts_of("known")
    while True:
        fact, kind = rng.choice(known), rng.random()
        if kind < STATEMENT_SHARE:
            yield fact.fill(rng.choice(STATEMENTS))
        elif kind < STATEMENT_SHARE + QUESTION_SHARE:
            yield f"{fact.fill(rng.choice(PUBLIC_PROMPTS))} {fact.answer}"
        else:
            yield f"{fact.fill(PRIVATE_PROMPT)} {rng.choice(answers_of(fact.relation))}"
