"""The private tasks: what their examples look like, and that evaluation stays out of training."""

from collections import Counter

import pytest

from common.demo.facts import GROUPS
from common.demo.model import load_tokenizer
from common.demo.tasks import TASKS, evaluation_examples, splits_of, training_examples


@pytest.mark.parametrize("task", TASKS)
def test_training_examples_are_balanced_over_the_groups(task: str) -> None:
    examples = training_examples(task, 100, seed=0)
    assert examples.column_names == ["prompt", "completion", "group", "relation"]
    assert Counter(examples["group"]) == dict.fromkeys(GROUPS, 25)


@pytest.mark.parametrize("task", TASKS)
def test_the_seed_decides_the_draw(task: str) -> None:
    first = training_examples(task, 40, seed=1).to_list()
    assert first == training_examples(task, 40, seed=1).to_list()
    assert first != training_examples(task, 40, seed=2).to_list()


@pytest.mark.parametrize(("task", "split"), [(task, split) for task in TASKS for split in splits_of(task)])
def test_every_question_offers_four_answers_and_the_right_one(task: str, split: str) -> None:
    examples = evaluation_examples(task, split, seed=0)
    for row in examples:
        assert len(set(row["choices"])) == 4
        assert row["completion"] in row["choices"]
    places = Counter(row["choices"].index(row["completion"]) for row in examples)
    assert len(places) == 4


@pytest.mark.parametrize("task", TASKS)
def test_prompt_tokens_are_a_prefix_of_the_example(task: str) -> None:
    tokenizer = load_tokenizer()
    for row in training_examples(task, 200, seed=0):
        prompt = tokenizer(row["prompt"])["input_ids"]
        example = tokenizer(row["prompt"] + row["completion"])["input_ids"]
        assert example[: len(prompt)] == prompt
        assert len(example) == len(prompt) + 1


@pytest.mark.parametrize("split", ["evaluation", "validation"])
def test_elicitation_is_scored_on_facts_that_no_client_can_hold(split: str) -> None:
    held = set(training_examples("elicitation", 8_000, seed=0)["prompt"])
    assert held.isdisjoint(evaluation_examples("elicitation", split, seed=0)["prompt"])


def test_elicitation_is_tuned_and_scored_on_different_facts() -> None:
    tuned = set(evaluation_examples("elicitation-validation", "evaluation", seed=0)["prompt"])
    assert tuned == set(evaluation_examples("elicitation", "validation", seed=0)["prompt"])
    assert tuned.isdisjoint(evaluation_examples("elicitation", "evaluation", seed=0)["prompt"])


def test_knowledge_is_scored_on_the_facts_that_clients_hold_and_not_on_those_for_tuning() -> None:
    held = set(training_examples("knowledge", 2_000, seed=0)["prompt"])
    scored = set(evaluation_examples("knowledge", "evaluation", seed=0)["prompt"])
    tuned = set(training_examples("knowledge-validation", 2_000, seed=0)["prompt"])
    assert held == scored
    assert held.isdisjoint(tuned)


def test_unknown_names_are_answered_with_the_allowed_ones() -> None:
    with pytest.raises(ValueError, match="elicitation, elicitation-validation, knowledge, knowledge-validation"):
        training_examples("trivia", 4, seed=0)
    with pytest.raises(ValueError, match="allowed: evaluation, retention"):
        evaluation_examples("knowledge", "validation", seed=0)
    with pytest.raises(ValueError, match="allowed: evaluation, validation, retention"):
        evaluation_examples("elicitation", "train", seed=0)
