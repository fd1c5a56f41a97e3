"""Public examples: what is scored, held out, decided by and retained is not what clients hold."""

from pathlib import Path
from typing import Any

import pytest

from common.config import DataConfig, DemoTask
from common.data import evaluation_examples, private_examples, retention_examples, validation_examples
from common.demo.facts import split_known
from common.demo.tasks import VALIDATION
from tests.support.example_rows import ROWS, columns, parts
from tests.support.tiny import write_jsonl


@pytest.mark.parametrize(("task", "split"), [("elicitation", "evaluation"), ("elicitation-validation", "validation")])
def test_no_client_holds_a_fact_that_is_evaluated(task: str, split: str) -> None:
    data = DataConfig.model_validate({"task": task, "examples-per-client": 12})
    held = {(prompt, answer) for part in parts(data, 30) for prompt, answer in zip(*columns(part), strict=True)}
    asked = set(zip(*columns(evaluation_examples(data, 1)), strict=True))
    assert len(held) > 100
    assert len(asked) == len(split_known()[split])
    assert not {prompt for prompt, _ in held} & {prompt for prompt, _ in asked}


def test_public_examples_are_the_configured_file_the_demos_own_or_none(sorted_file: str) -> None:
    own = evaluation_examples(DataConfig(evaluation=sorted_file), 1)
    assert own is not None
    assert list(own["prompt"]) == [row["prompt"] for row in ROWS]
    assert evaluation_examples(DataConfig(), 1) is not None
    assert evaluation_examples(DataConfig(name=sorted_file), 1) is None


@pytest.mark.parametrize("task", VALIDATION)
def test_what_a_run_decides_by_is_neither_trained_on_nor_scored(task: DemoTask) -> None:
    data = DataConfig(task=task)
    decided = validation_examples(data, 1)
    scored = evaluation_examples(data, 1)
    assert decided is not None
    assert scored is not None
    trained = [row["prompt"] for part in range(4) for row in private_examples(data, part, 4, 1)]
    assert not set(decided["prompt"]) & {*scored["prompt"], *trained}


@pytest.mark.parametrize(
    "changes",
    [*({"task": task} for task in VALIDATION.values()), {"name": "own.jsonl"}, {"evaluation": "own.jsonl"}],
)
def test_a_run_without_other_public_rows_has_nothing_else_to_decide_by(changes: dict[str, Any]) -> None:
    assert validation_examples(DataConfig(**changes), 1) is None


def test_only_the_demo_has_a_retention_set(sorted_file: str) -> None:
    assert retention_examples(DataConfig(), 1) is not None
    assert retention_examples(DataConfig(name=sorted_file), 1) is None


def test_own_held_out_examples_come_without_the_demos_retention(tmp_path: Path) -> None:
    path = str(write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "a", "completion": "b"}]))
    assert retention_examples(DataConfig(), 1) is not None
    assert retention_examples(DataConfig(evaluation=path), 1) is None
