"""Public prompts of the embedded tasks: their templates, and questions about pairs that are no fact of any section."""

from functools import cache

from common.demo.facts import SECTIONS, facts_of
from common.demo.tasks import template_of


@cache
def public_questions(task: str, template: str = "") -> tuple[str, ...]:
    """A template (or the task's own) filled with every relation and subject of one group that no section pairs.

    So no client holds any of these questions, none is evaluated, and none has an answer: "the color of wolf" beside
    "the symbol of 3 and 4". Sorted, each once. Raises ``ValueError`` for an unknown task.
    """
    facts = [fact for section in SECTIONS for fact in facts_of(section)]
    asked = {(fact.relation, fact.subject) for fact in facts}
    relations = {(fact.group, fact.relation) for fact in facts}
    subjects = {(fact.group, fact.subject) for fact in facts}
    pairs = {(r, s) for of_r, r in relations for of_s, s in subjects if of_r == of_s} - asked
    asking = template or template_of(task)
    return tuple(sorted({asking.format(relation=relation, subject=subject) for relation, subject in pairs}))
