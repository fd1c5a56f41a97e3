"""From records to rows: spread, pairs, and what must be said."""

import math
from typing import Any

import pytest

from common.config import RunConfig
from compare.plan import Cell, Entry, Wish
from compare.study import Outcome, Record, runs_missing, runs_of, score_of, study
from compare.summary import statistics, summarise
from compare.table import markdown

WISH = Wish(["lora", "random-projection"], [2.0], ["elicitation"], seeds=3, trials=3, tuning_seeds=2)
FLAT = {**RunConfig().flat(), "federation.num-clients": 20, "data.task": "elicitation"}


def record(job: Any, accuracy: float, *, stopped: str = "all rounds done", warning: str = "") -> Record:
    wire = {"bytes_up_per_client_round": 589.0, "bytes_down_per_client_round": None, "code_values": 256}
    figure = {"epsilon": 1.9 + job.flat["seed"] / 1e5, "delta": 5e-3}
    report = {
        "run": {"strategy": job.flat["strategy.name"]},
        "outcome": {
            "base": {"accuracy": 0.3, "loss": 3.0, "retention": 1.0},
            "final": {"accuracy": accuracy, "loss": 1.0 - accuracy, "retention": 0.5},
            "stopped_because": stopped,
            "warning": warning,
        },
        "privacy": {
            "released_model": figure,
            "one_client_against_server": {"epsilon": "inf"},
            "not_private_because": "",
            "noise_multiplier": 8.0,
        },
        "communication": {**wire, "adapter_values": 24_576},
        "codec": {},
    }
    return {"key": job.key, "label": job.label, "flat": job.flat, "code": "c0de", "status": "done", "seconds": 2.0,
            "report": report}  # fmt: skip


def outcome(name: str, accuracies: list[float | None], peak: float = 1.0, **said: Any) -> Outcome:
    """A study whose trials are best at ``peak`` and whose evaluated runs have these accuracies (``None``: failed)."""
    cell = Cell("elicitation", Entry(name, name), 2.0, {**FLAT, "strategy.name": name}, 1.0)
    driven = study(cell, WISH)
    jobs = next(driven)
    while True:
        records = []
        for job in jobs:
            if job.purpose == "tuning":
                distance = abs(math.log(float(job.flat["server.learning-rate"]) / peak))
                records.append(record(job, 0.8 - distance / 10))
                continue
            accuracy = accuracies[int(job.flat["seed"]) - 1]
            bad = {
                "key": job.key,
                "label": job.label,
                "flat": job.flat,
                "code": "c0de",
                "status": "failed",
                "error": "E",
            }
            records.append(bad if accuracy is None else record(job, accuracy, **said))
        try:
            jobs = driven.send(records)
        except StopIteration as end:
            found: Outcome = end.value
            return found


def test_a_study_evaluates_the_step_that_was_best_on_validation() -> None:
    found = outcome("lora", [0.5, 0.6, 0.7])
    assert found.search.best == 1.0
    assert {r["flat"]["server.learning-rate"] for r in found.runs["none"]} == {1.0}
    assert [len(records) for records in found.trials.values()] == [2, 2, 2]


def test_what_is_missing_of_a_study_is_known_before_it_is_run() -> None:
    """Three trials of two seeds, three evaluated seeds: nine runs; where one lacks, later ones do not count."""
    done = outcome("lora", [0.5, 0.6, 0.7])
    known = {record["key"]: record for record in done.records}
    assert runs_of(done.cell, WISH) == len(known) == 9
    assert runs_missing(done.cell, WISH, lambda job: known.get(job.key)) == 0
    gone = done.trials[1.0][0]["key"]
    assert runs_missing(done.cell, WISH, lambda job: None if job.key == gone else known.get(job.key)) == 4
    assert runs_missing(done.cell, WISH, lambda _: None) == 9


def test_mean_and_standard_error() -> None:
    assert statistics([1.0, 2.0, 3.0]) == {"mean": 2.0, "se": pytest.approx(3**-0.5), "values": [1.0, 2.0, 3.0]}
    assert statistics([4.0]) == {"mean": 4.0, "se": None, "values": [4.0]}
    assert statistics([]) is None


def test_differences_are_of_pairs_with_the_same_seed() -> None:
    """Every pair differs by exactly ten points, so the error of the difference is 0 though that of each mean is not."""
    rows = [outcome("lora", [0.2, 0.5, 0.9]), outcome("random-projection", [0.3, 0.6, 1.0])]
    first, second = summarise(rows, WISH, "command")["rows"]
    assert first["difference"] is None
    assert second["difference"]["mean"] == pytest.approx(0.1)
    assert second["difference"]["se"] == pytest.approx(0.0, abs=1e-12)
    assert second["accuracy"]["se"] > 0.1


def test_a_failed_run_is_left_out_of_the_means_and_told() -> None:
    found = summarise([outcome("lora", [0.2, None, 0.4])], WISH, "command")
    (row,) = found["rows"]
    assert row["accuracy"]["mean"] == pytest.approx(0.3)
    assert "1 of 3 runs failed" in row["remarks"]
    assert [one["error"] for one in found["failed"]] == ["E"]
    assert "## Failed runs" in markdown(found)


@pytest.mark.parametrize(
    ("said", "peak", "remark"),
    [
        (
            {"stopped": "diverged: held-out loss 99"},
            1.0,
            "3 of 3 runs diverged (judged on the held-out examples that are scored): the last",
        ),
        ({"warning": "ended 4 points BELOW"}, 1.0, "3 of 3 runs ended more than 2 points below the base model"),
        ({}, 9.0, "the best step lies at the edge of those tried"),
        ({}, 1e-4, "no step beat the base model in tuning"),
    ],
)
def test_a_row_says_what_a_reader_must_know(said: dict[str, str], peak: float, remark: str) -> None:
    found = summarise([outcome("lora", [0.1, 0.1, 0.1], peak, **said)], WISH, "command")
    assert any(text.startswith(remark) for text in found["rows"][0]["remarks"])
    assert remark in markdown(found)


def test_a_sound_row_has_no_remark_and_the_largest_epsilon() -> None:
    (row,) = summarise([outcome("lora", [0.5, 0.6, 0.7])], WISH, "command")["rows"]
    assert row["remarks"] == []
    assert row["epsilon_released"] == pytest.approx(1.90003)
    assert (row["epsilon_server"], row["bytes_up"], row["bytes_down"]) == ("inf", 589.0, None)


def test_a_trial_with_a_failed_run_has_no_score() -> None:
    good = outcome("lora", [0.5, 0.5, 0.5]).runs["none"][0]
    assert score_of([good, {"status": "failed"}]) is None
    assert score_of([good, good]) is not None
