"""A comparison on a model and data of one's own: what it needs, what it tunes on, and how it judges without choices."""

import math
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from common.config import ConfigError, RunConfig
from common.demo.tasks import evaluation_examples, training_examples
from tests.support.tiny import TINY, write_jsonl
from workbench.cli import main as cli
from workbench.compare.plan import make_cells
from workbench.compare.plots import draw
from workbench.compare.runs import execute
from workbench.compare.spec import CENTRALIZED, OWN, ComparisonSpec, check_spec
from workbench.compare.study import study
from workbench.compare.summary import summarize
from workbench.compare.table import markdown

SPEC = ComparisonSpec(
    ["lora", "random-projection"], [math.inf], [OWN], seeds=2, clients=2, rounds=2, trials=3, tuning_seeds=1,
    controls="none", centralized=False,
)  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Facts without choices: private ones, some to tune on and others to score."""
    folder = tmp_path_factory.mktemp("own")
    public = evaluation_examples("elicitation", "evaluation", 1).remove_columns("choices").to_list()
    parts = {
        "name": training_examples("elicitation", 8, 1).to_list(),
        "validation": public[:4],
        "evaluation": public[4:8],
    }
    return {f"data.{key}": str(write_jsonl(folder / f"{key}.jsonl", rows)) for key, rows in parts.items()}


def keys(files: dict[str, str]) -> dict[str, Any]:
    small = {key: value for key, value in TINY.items() if key.startswith(("lora.", "codec.", "train."))}
    return {**RunConfig().flat(), **small, "data.partitioner": "iid", **files, "federation.num-clients": 2}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data.validation": ""}, r'data.validation = "": steps are tuned on public held-out rows'),
        ({"data.evaluation": ""}, r'data.evaluation = "": scores are of public held-out rows'),
    ],
)
def test_rows_to_tune_on_and_rows_to_score_are_needed(
    files: dict[str, str], changes: dict[str, str], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        check_spec(SPEC, keys(files), changes)


def test_the_demos_tasks_are_of_the_demo(files: dict[str, str]) -> None:
    spec = ComparisonSpec(**{**SPEC.__dict__, "tasks": ["knowledge"]})
    with pytest.raises(ConfigError, match="--tasks knowledge: of the demo data only"):
        check_spec(spec, keys(files), {})


def test_pooled_data_are_taken_in_as_many_micro_batches_as_a_cohort_has_clients(files: dict[str, str]) -> None:
    spec = ComparisonSpec(**{**SPEC.__dict__, "centralized": True})
    pooled = make_cells(spec, keys(files), {})[0]
    assert pooled.entry.label == CENTRALIZED
    assert pooled.flat["train.gradient-accumulation"] == 2
    assert pooled.flat["data.name"] == files["data.name"]


def test_rows_without_choices_are_tuned_compared_and_drawn_by_their_loss(files: dict[str, str], tmp_path: Path) -> None:
    outcomes = []
    for cell in make_cells(SPEC, keys(files), {}):
        driven = study(cell, SPEC)
        batch = next(driven)
        assert {job.flat["data.evaluation"] for job in batch} == {files["data.validation"]}
        assert {job.flat["data.validation"] for job in batch} == {""}
        while True:
            try:
                batch = driven.send([execute(job) for job in batch])
            except StopIteration as end:
                outcomes.append(end.value)
                break
            if all(job.purpose == "evaluation" for job in batch):
                assert {job.flat["data.evaluation"] for job in batch} == {files["data.evaluation"]}
    found = summarize(outcomes, SPEC, "dr-encoder compare")
    assert found["failed"] == []
    assert found["judged_by"] == {OWN: "loss"}
    lora, other = found["rows"]
    losses = [[row["seeds"][seed]["loss"] for seed in ("1", "2")] for row in (lora, other)]
    assert other["difference"]["values"] == [mine - its for its, mine in zip(*losses, strict=True)]
    assert [point["round"] for point in lora["curve"]] == [0, 1, 2]
    best = min(lora["tuning"]["trials"], key=lambda trial: trial["loss"]["mean"])
    assert lora["step"] == best["step"]
    page = markdown(found)
    assert "against lora (loss)" in page
    assert "chosen by mean loss on the public validation examples" in page
    assert {path.name for path in draw(tmp_path, found)} == {
        f"{kind}-own.png" for kind in ("utility", "curves", "bytes")
    }


def test_rows_that_decide_and_are_scored_are_refused(files: dict[str, str], tmp_path: Path) -> None:
    both = files | {"data.validation": files["data.evaluation"]}
    options = [part for key, value in both.items() for part in ("--set", f"{key}={value}")]
    said = CliRunner().invoke(
        cli.app,
        ["compare", "--strategies", "lora", "--clients", "2", "--out", str(tmp_path / "out"), "--dry-run",
         "--epsilons", "inf", "--no-centralized", "--jobs", "1", "--set", "data.partitioner=iid", *options],
    )  # fmt: skip
    assert said.exit_code == 1
    assert "4 of its 4 examples are in data.evaluation too" in said.output
