"""From records to rows: spread, pairs, and what must be said."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest

from common.config import RunConfig
from common.counts import count
from workbench.compare.plan import Cell
from workbench.compare.released import place
from workbench.compare.runs import failed
from workbench.compare.spec import TUNING_SEED, ComparisonSpec, Entry
from workbench.compare.study import Outcome, Record, count_runs, runs_of, score_of, study
from workbench.compare.summary import statistics, summarize
from workbench.compare.table import markdown
from workbench.compare.tuning import Score

SPEC = ComparisonSpec(["lora", "random-projection"], [2.0], ["elicitation"], seeds=3, trials=3, tuning_seeds=2)
FLAT = {**RunConfig().flat(), "federation.num-clients": 20, "data.task": "elicitation"}


def record(
    job: Any, accuracy: float, *, stopped: str = "all rounds done", warning: str = "", **sections: dict[str, Any]
) -> Record:
    """A run's record; ``sections``: what its report has beside (or in place of) the usual in a section."""
    wire = {"per_client_run": {"up": 589.0, "down": 11.0, "both": 600.0}, "code_values": 256}
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
        "strategy": {},
    }
    report |= {name: report[name] | more for name, more in sections.items()}
    return {"key": job.key, "label": job.label, "flat": job.flat, "code": "c0de", "status": "done", "seconds": 2.0,
            "report": report}  # fmt: skip


def outcome(
    name: str,
    accuracies: list[float | None],
    peak: float = 1.0,
    fail_tuning: Mapping[float, Sequence[int]] = MappingProxyType({}),
    spec: ComparisonSpec = SPEC,
    keys: Mapping[str, Any] = MappingProxyType({}),
    **said: Any,
) -> Outcome:
    """A study whose trials are best at ``peak`` and whose evaluated runs have these accuracies (``None``: failed).

    ``fail_tuning``: by step, the tuning seeds whose runs fail. ``keys``: of the row's configuration.
    """
    cell = Cell("elicitation", Entry(name, name), 2.0, {**FLAT, "strategy.name": name, **keys}, 1.0)
    driven = study(cell, spec)
    jobs = next(driven)
    while True:
        records = []
        for job in jobs:
            if job.purpose == "tuning":
                distance = abs(math.log(float(job.flat["server.learning-rate"]) / peak))
                fails = job.flat["seed"] in fail_tuning.get(job.flat["server.learning-rate"], ())
                records.append(failed(job, "E") if fails else record(job, 0.8 - distance / 10))
                continue
            accuracy = accuracies[int(job.flat["seed"]) - 1]
            records.append(failed(job, "E") if accuracy is None else record(job, accuracy, **said))
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
    assert runs_of(done.cell, SPEC) == len(known) == 9
    assert count_runs(done.cell, SPEC, lambda job: known.get(job.key)) == (9, 0)
    gone = done.trials[1.0][0]["key"]
    assert count_runs(done.cell, SPEC, lambda job: None if job.key == gone else known.get(job.key)) == (9, 4)
    assert count_runs(done.cell, SPEC, lambda _: None) == (9, 9)


def test_a_search_that_ends_early_is_told_and_its_runs_are_counted() -> None:
    many = replace(SPEC, trials=40)
    done = outcome("lora", [0.5, 0.6, 0.7], spec=many)
    known = {record["key"]: record for record in done.records}
    made = len(done.trials)
    assert 9 < made < 40
    assert count_runs(done.cell, many, lambda job: known.get(job.key)) == (2 * made + 3, 0)
    found = summarize([done], many, "command")
    remark = f"its search ended after {made} trials: the next step, to three digits, was tried already"
    assert remark in found["rows"][0]["remarks"]
    assert len(found["rows"][0]["tuning"]["trials"]) == made
    assert "at most 40 trials a row" in markdown(found)


def test_an_unfinished_page_says_how_many_take_part_in_the_rows_to_come() -> None:
    """The centralized row, of one client, is done first."""
    local = {"privacy.trust": "local", "privacy.delta": 0.005}
    centralized = outcome("centralized", [0.5] * 3, keys={"federation.num-clients": 1, "privacy.delta": 0.0})
    planned = [centralized.cell, outcome("lora", [0.5] * 3, keys=local).cell]
    found = summarize([centralized], SPEC, "command", planned)
    assert found["unfinished"] == ["elicitation, lora, epsilon 2"]
    assert "M = 20 clients, expected cohort 2, 40 rounds, δ = 0.005, trust model local" in markdown(found)


def test_mean_and_standard_error() -> None:
    assert statistics([1.0, 2.0, 3.0]) == {"mean": 2.0, "se": pytest.approx(3**-0.5), "values": [1.0, 2.0, 3.0]}
    assert statistics([4.0]) == {"mean": 4.0, "se": None, "values": [4.0]}
    assert statistics([]) is None


def test_differences_are_of_pairs_with_the_same_seed() -> None:
    """Every pair differs by exactly ten points, so the error of the difference is 0 though that of each mean is not."""
    rows = [outcome("lora", [0.2, 0.5, 0.9]), outcome("random-projection", [0.3, 0.6, 1.0])]
    first, second = summarize(rows, SPEC, "command")["rows"]
    assert first["difference"] is None
    assert second["difference"]["mean"] == pytest.approx(0.1)
    assert second["difference"]["se"] == pytest.approx(0.0, abs=1e-12)
    assert second["accuracy"]["se"] > 0.1


def test_a_failed_run_is_left_out_of_the_means_and_told() -> None:
    found = summarize([outcome("lora", [0.2, None, 0.4])], SPEC, "command")
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
            "3 of 3 runs diverged (judged on the held-out examples that are scored): the best",
        ),
        ({"warning": "ended 4 points BELOW"}, 1.0, "3 of 3 runs ended below the base model by accuracy or loss"),
        ({}, 9.0, "the best step lies at the edge of those tried"),
        ({}, 1e-4, "no step beat the base model in tuning"),
    ],
)
def test_a_row_says_what_a_reader_must_know(said: dict[str, str], peak: float, remark: str) -> None:
    found = summarize([outcome("lora", [0.1, 0.1, 0.1], peak, **said)], SPEC, "command")
    assert any(text.startswith(remark) for text in found["rows"][0]["remarks"])
    assert remark in markdown(found)


def test_a_sound_row_has_no_remark_and_the_largest_epsilon() -> None:
    (row,) = summarize([outcome("lora", [0.5, 0.6, 0.7])], SPEC, "command")["rows"]
    assert row["remarks"] == []
    assert row["epsilon_released"] == pytest.approx(1.90003)
    assert (row["epsilon_server"], row["bytes_up"], row["bytes_both"]) == ("inf", 589.0, 600.0)


def test_a_trial_is_judged_by_its_runs_that_ended() -> None:
    good = outcome("lora", [0.5, 0.5, 0.5]).runs["none"][0]
    assert score_of([good, {"status": "failed"}]) == score_of([good]) == Score(0.5, -0.5)
    assert score_of([{"status": "failed"}]) is None


def test_a_failed_tuning_run_does_not_void_its_trial_and_is_told() -> None:
    found = summarize([outcome("lora", [0.5, 0.5, 0.5], fail_tuning={1.0: [TUNING_SEED + 1]})], SPEC, "command")
    (row,) = found["rows"]
    assert row["step"] == 1.0
    assert [trial["failed"] for trial in row["tuning"]["trials"]] == [0, 1, 0]
    assert "its step was judged by 1 of 2 tuning runs: the others failed" in row["remarks"]
    assert "**1*: 80.0 %; 50.0 % (1 of 2 runs failed)**" in markdown(found), "accuracy, then retention"


def test_a_trial_without_a_run_that_ended_is_not_chosen() -> None:
    both = [TUNING_SEED + 1, TUNING_SEED + 2]
    found = summarize([outcome("lora", [0.5, 0.5, 0.5], fail_tuning={1.0: both})], SPEC, "command")
    assert found["rows"][0]["step"] != 1.0
    assert "1*: – (2 of 2 runs failed)" in markdown(found)


BROKEN: dict[str, Any] = {
    "privacy": {
        "released_model": {"epsilon": "inf", "delta": 5e-3},
        "not_private_because": "stage-one.private = false: stage 1 is in the clear",
    }
}


@pytest.mark.parametrize("names", [("lora", "random-projection"), ("random-projection", "lora")])
def test_a_row_without_the_epsilon_that_was_asked_for_says_why_and_is_not_set_against_one_with_it(
    names: tuple[str, str],
) -> None:
    """Whichever of the two is the reference."""
    broken, sound = outcome(names[0], [0.9, 0.9, 0.9], **BROKEN), outcome(names[1], [0.3, 0.6, 1.0])
    found = summarize([broken, sound], SPEC, "command")
    first, second = found["rows"]
    reason = "NOT PRIVATE, though ε = 2 was asked for: stage-one.private = false: stage 1 is in the clear"
    assert reason in first["remarks"]
    assert reason in markdown(found)
    assert reason not in second["remarks"]
    assert first["difference"] is second["difference"] is None
    other = first if names[0] == "random-projection" else second
    assert "no difference to lora: only one of the two has the ε that was asked for" in other["remarks"]


def test_two_rows_that_both_lack_the_epsilon_asked_for_are_set_against_each_other() -> None:
    rows = [outcome(name, [0.9, 0.8, 0.9], **BROKEN) for name in ("lora", "random-projection")]
    assert summarize(rows, SPEC, "command")["rows"][1]["difference"]["mean"] == 0.0


def test_no_privacy_that_was_asked_for_is_no_broken_word() -> None:
    asked = outcome("lora", [0.9, 0.8, 0.9], **BROKEN)
    asked.cell = replace(asked.cell, epsilon=math.inf)
    assert summarize([asked], SPEC, "command")["rows"][0]["remarks"] == []


def test_bytes_of_stage_one_stand_beside_those_of_a_round() -> None:
    stage = {"stage_1": {"bytes_up_per_client": 24_660.0, "bytes_down_per_client": 6_666.0}}
    found = summarize([outcome("lora", [0.5] * 3, strategy=stage), outcome("other", [0.5] * 3)], SPEC, "command")
    with_stage, without = found["rows"]
    assert (with_stage["stage_one_bytes_up"], with_stage["stage_one_bytes_down"]) == (24_660.0, 6_666.0)
    assert (without["stage_one_bytes_up"], without["stage_one_bytes_down"]) == (None, None)
    table = [[cell.strip() for cell in line.split("|")] for line in markdown(found).splitlines() if "|" in line]
    head, _, base, *rows = table
    column = head.index("of which stage 1 up")
    assert [row[column] for row in (base, *rows[:2])] == ["", "24,660", "–"]
    assert len({len(row) for row in (head, base, *rows[:2])}) == 1


def test_figures_that_a_strategy_offers_are_carried_into_numbers_and_page() -> None:
    """Any strategy's, under any name; where no row has one, there is no table."""
    one = outcome("lora", [0.5] * 3, strategy={"figures": {"accuracy of the proxy": 0.25, "endless": "inf"}})
    found = summarize([one, outcome("other", [0.5] * 3)], SPEC, "command")
    assert found["rows"][0]["figures"] == {
        "accuracy of the proxy": {"mean": 0.25, "se": 0.0, "values": [0.25, 0.25, 0.25]}
    }
    assert found["rows"][1]["figures"] == {}
    assert (
        "| strategy | ε asked | accuracy of the proxy |\n|---|---|---|\n| `lora` | 2 | 0.250 ± 0.000 |\n"
        in markdown(found)
    )
    assert "report of themselves" not in markdown(summarize([outcome("other", [0.5] * 3)], SPEC, "command"))


def test_captured_energy_says_of_which_gradients_it_is() -> None:
    codec = {"captured_energy": 0.5}
    rows = [
        outcome("lora", [0.5] * 3, codec=codec, strategy={"captured_energy_of": "real gradients"}),
        outcome("of-older-code", [0.5] * 3, codec=codec),
        outcome("without", [0.5] * 3),
    ]
    found = [row["captured_energy_of"] for row in summarize(rows, SPEC, "command")["rows"]]
    assert found == ["real gradients", "gradients that its runs do not name", None]


def head_of(found: dict[str, Any]) -> str:
    """The line of the page that says what all rows have in common."""
    return next(line for line in markdown(found).splitlines() if line.startswith("M = "))


def test_delta_and_trust_model_are_said_once_where_they_are_equal() -> None:
    rows = [outcome("lora", [0.5] * 3), outcome("random-projection", [0.5] * 3)]
    found = summarize(rows, SPEC, "command")
    assert (found["delta"], found["trust"]) == (1e-5, "distributed, against 1 colluding client")
    assert "20 clients, " in head_of(found)
    assert "δ = 1e-05, trust model distributed, against 1 colluding client; 3 paired seeds" in head_of(found)
    assert all(row["remarks"] == [] for row in found["rows"])


def test_a_delta_that_is_left_to_the_clients_is_said_as_a_number() -> None:
    found = summarize([outcome("lora", [0.5] * 3, keys={"privacy.delta": 0.0})], SPEC, "command")
    assert found["delta"] == pytest.approx(1 / 200)
    assert "δ = 0.005, " in head_of(found)


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"privacy.trust": "local"}, "local"),
        ({"privacy.colluders": 3}, "distributed, against 3 colluding clients"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_row_in_another_trust_model_than_the_reference_says_so(keys: dict[str, Any], named: str, first: bool) -> None:
    """Wherever it stands in the table; its difference stays, for ε and δ are equal."""
    rows = [outcome("lora", [0.5] * 3), outcome("random-projection", [0.5] * 3, keys=keys)]
    found = summarize(rows[:: 1 if first else -1], SPEC, "command")
    own = {row["strategy"]: row for row in found["rows"]}
    assert found["trust"] == own["lora"]["trust"] == "distributed, against 1 colluding client"
    assert own["random-projection"]["remarks"] == [f"trust model {named}, not distributed, against 1 colluding client"]
    assert own["lora"]["remarks"] == []
    assert own["random-projection"]["difference"]["mean"] == 0.0
    assert "trust model distributed, against 1 colluding client (unless a row's remarks name another);" in head_of(
        found
    )


def test_without_noise_nobody_is_told_of_trust() -> None:
    rows = [outcome("lora", [0.5] * 3), outcome("random-projection", [0.5] * 3, keys={"privacy.trust": "local"})]
    for row in rows:
        row.cell = replace(row.cell, epsilon=math.inf)
    assert summarize(rows, SPEC, "command")["rows"][1]["remarks"] == []


def test_one_of_a_thing_is_singular() -> None:
    one = replace(SPEC, seeds=1, tuning_seeds=1)
    page = markdown(summarize([outcome("lora", [0.5], spec=one)], one, "command"))
    assert "1 paired seed; " in page
    assert "each on 1 seed, " in page
    assert "(4 runs)" in page
    assert " 1 seeds" not in page
    failed_once = markdown(summarize([outcome("lora", [None], spec=one)], one, "command"))
    assert "1 of 1 run failed" in failed_once
    assert [count(number, "run") for number in (0, 1, 2, 1000)] == ["0 runs", "1 run", "2 runs", "1,000 runs"]


def test_an_epsilon_above_what_was_asked_is_never_rounded_down() -> None:
    """Six digits and more of a ledger's figure become three, and those must still hold."""
    for released, drawn in (
        (6.1812, 6.19),
        (2.0004, 2.01),
        (2.0000000000000004, 2.0),
        (1.9995, 2.0),
        (math.inf, math.inf),
    ):
        assert place({"epsilon_released": released, "epsilon_asked": 2.0}) == drawn
