"""How figures are written for people."""

import math
from pathlib import Path

import pytest

from common.config import RunConfig
from server_app.privacy.solving import make_plan
from server_app.results.console import ConsoleLog
from server_app.results.facts import extent
from server_app.results.units import bytes_against_lora, data_size, show, show_delta, show_multiplier, times
from server_app.rounds.private_scores import imprecision


@pytest.mark.parametrize(
    ("count", "text"),
    [
        *[(0, "0 B"), (589, "589 B"), (999, "999 B"), (999.6, "1.00 kB"), (1000, "1.00 kB"), (49_234, "49.2 kB")],
        *[(98_400, "98.4 kB"), (999_400, "999 kB"), (999_990, "1.00 MB"), (9_838_800, "9.84 MB")],
        *[(33_554_432, "33.6 MB"), (2.56e10, "25.6 GB"), (7.1e12, "7,100 GB")],
    ],
)
def test_sizes_have_the_unit_that_fits(count: float, text: str) -> None:
    assert data_size(count) == text


@pytest.mark.parametrize(
    ("more", "less", "text"),
    [
        *[(49_234, 589, "84 times more"), (100, 100, "about the same"), (100, 103, "about the same")],
        *[(150, 100, "1.5 times more"), (50, 100, "2.0 times less"), (1, math.nan, "not known")],
    ],
)
def test_nothing_is_one_times_more(more: float, less: float, text: str) -> None:
    assert times(more, less) == text


def test_a_run_without_rounds_is_summed_up_too() -> None:
    own = {"up": 0.0, "down": 0.0, "both": 0.0}
    assert bytes_against_lora(own, own) == "no round was run"


def test_bytes_are_told_both_ways() -> None:
    own, lora = {"up": 1300.0, "down": 2200.0, "both": 3500.0}, {"both": 356_000.0}
    said = bytes_against_lora(own, lora)
    assert said == "3.50 kB both ways (1.30 kB up, 2.20 kB down), plain LoRA 356 kB (102 times more)"


@pytest.mark.parametrize(
    ("epsilon", "text"),
    [(1.2341, "1.235"), (0.0, "0.000"), (9.9e-6, "9.9e-06"), (9.91e-6, "1.0e-05"), (math.inf, "inf"), ("inf", "inf")],
)
def test_an_epsilon_is_rounded_up_and_never_to_many_times_itself(epsilon: float | str, text: str) -> None:
    assert show(epsilon) == text


def test_a_delta_is_rounded_up_too() -> None:
    """At a smaller one the epsilon beside it would not hold."""
    for number in range(2, 400):
        delta = 1 / (10 * number)
        assert delta * (1 - 1e-12) <= float(show_delta(delta)) < delta * (1 + 1e-5)
    assert [show_delta(delta) for delta in (1e-5, 1 / 70, 1e-3)] == ["1e-05", "0.0142858", "0.001"]


def test_one_of_a_kind_is_told_in_the_singular(capsys: pytest.CaptureFixture[str]) -> None:
    few = {"privacy.delta": 1e-5, "privacy.sampling-rate": 1.0, "num-server-rounds": 1}
    plan = make_plan(RunConfig.parse(few), 1, 1, None)
    console = ConsoleLog()
    console.opening("lora", plan, 256, Path("results"))
    console.prepared({"captured_energy": 0.5}, 1, 256)
    said = capsys.readouterr().out
    assert "] 1 client, expected cohort 1, up to 1 round, trust" in said
    assert "code of 1 value;" in said
    ended = {"stopped_because": "all rounds done", "divergence_judged_on": "nothing"}
    run = {"rounds_run": 1, "rounds_planned": 1, "clients": 1}
    assert extent({"run": run, "outcome": ended}).startswith("1 of 1 round with 1 enrolled client; ended because:")
    assert "with 1 client and 1 evaluation noise" in imprecision(0.5, 0.5, 1, 1)


@pytest.mark.parametrize(("noise", "shown"), [(1.43609, "1.436"), (66.33, "66.330"), (0.01, "0.010"), (1e-4, "0.0001")])
def test_no_noise_is_shown_as_none(noise: float, shown: str) -> None:
    assert show_multiplier(noise) == shown
    assert float(show_multiplier(noise, 4)) == pytest.approx(noise, abs=1e-4)
