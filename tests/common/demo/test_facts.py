"""What is known, what is new, and what the corpus and the tokenizer make of it."""

from collections import Counter
from itertools import islice

import pytest

from benchmarks.pretrain.corpus import documents
from common.demo.facts import GROUPS, SECTIONS, answers_of, facts_of, split_known, vocabulary
from common.demo.model import load_tokenizer


def test_no_subject_has_two_answers_under_one_relation() -> None:
    asked = Counter((fact.relation, fact.subject) for section in SECTIONS for fact in facts_of(section))
    assert [question for question, count in asked.items() if count > 1] == []


def test_every_group_has_facts_in_every_section() -> None:
    for section in SECTIONS:
        assert {fact.group for fact in facts_of(section)} == set(GROUPS)


def test_every_relation_has_enough_answers_for_a_choice_of_four() -> None:
    relations = {fact.relation for section in SECTIONS for fact in facts_of(section)}
    assert all(len(answers_of(relation)) >= 4 for relation in relations)


def test_sums_add_up() -> None:
    sums = [fact for fact in facts_of("known") if fact.relation == "sum"]
    assert sums
    assert all(sum(int(word) for word in fact.subject.split(" and ")) == int(fact.answer) for fact in sums)


def test_tokenizer_knows_every_word_of_the_vocabulary() -> None:
    tokenizer = load_tokenizer()
    for word in vocabulary():
        ids = tokenizer(word)["input_ids"]
        assert len(ids) == 2
        assert ids[0] == tokenizer.bos_token_id
        assert ids[1] != tokenizer.unk_token_id


def test_the_splits_of_the_known_facts_are_disjoint_and_complete() -> None:
    parts = split_known()
    together = [fact for part in parts.values() for fact in part]
    assert len(together) == len(set(together)) == len(facts_of("known"))
    assert len(parts["train"]) > len(parts["evaluation"]) > len(parts["validation"]) > 0


def test_every_relation_is_in_every_split() -> None:
    relations = {fact.relation for fact in facts_of("known")}
    for part in split_known().values():
        assert {fact.relation for fact in part} == relations


@pytest.mark.parametrize("section", ["knowledge", "knowledge-validation"])
def test_withheld_facts_combine_a_subject_and_an_answer_that_the_base_knows_from_other_facts(section: str) -> None:
    subjects = {word for fact in facts_of("known") for word in (fact.subject, fact.answer)}
    answers = {(fact.relation, fact.answer) for fact in facts_of("known")}
    for fact in facts_of(section):
        assert fact.subject in subjects
        assert (fact.relation, fact.answer) in answers


def test_evaluated_and_validated_knowledge_share_no_subject() -> None:
    evaluated = {fact.subject for fact in facts_of("knowledge")}
    validated = {fact.subject for fact in facts_of("knowledge-validation")}
    assert evaluated.isdisjoint(validated)


def test_the_pretraining_corpus_never_asks_or_states_a_withheld_fact() -> None:
    documents_read = {frozenset(document.split()) for document in islice(documents(seed=0), 40_000)}
    for fact in facts_of("known"):
        assert any({fact.relation, *fact.subject.split()} <= words for words in documents_read)
    for section in ("knowledge", "knowledge-validation"):
        for fact in facts_of(section):
            assert not any({fact.relation, fact.subject} <= words for words in documents_read)


def test_the_corpus_is_the_same_for_the_same_seed() -> None:
    assert list(islice(documents(seed=3), 50)) == list(islice(documents(seed=3), 50))
    assert list(islice(documents(seed=3), 50)) != list(islice(documents(seed=4), 50))
