"""``dr-encoder budget``: the goldens of the design through the command, and that it plans what a run charges."""

import json
import math
from typing import Any

import pytest
from click.testing import Result
from scipy.stats import binom
from typer.testing import CliRunner

from common.config import RunConfig, flatten
from common.privacy.accounting import Charge, cross_check, epsilon
from server_app.privacy.solving import make_plan
from server_app.privacy.stage_one import statistics_stage
from tests.support.exact import exact_epsilon
from workbench.cli.main import app
from workbench.simulation.launcher import read_preset

DELTA = "1e-5"
NO_CHECK = "not cross-checked: not in this test"


def command(*flags: str, **options: Any) -> Result:
    named = {"clients": 10_000, "sampling_rate": 1, "delta": DELTA, "colluders": 0} | options
    words = [f"--{key.replace('_', '-')}={value}" for key, value in named.items()]
    return CliRunner().invoke(app, ["budget", *words, *flags])


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def asked(**options: Any) -> dict[str, Any]:
    result = command("--json", **options)
    assert result.exit_code == 0, result.output
    answer: dict[str, Any] = json.loads(result.stdout, parse_constant=refuse)
    return answer


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The PRV accountant, which costs seconds, is not asked."""
    monkeypatch.setattr("server_app.privacy.account.cross_check", lambda *_, **__: NO_CHECK)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("trust", ["central", "distributed"])
@pytest.mark.parametrize(("noise", "rounds", "golden"), [(1, 1, 4.3772), (4, 50, 8.5959)])
def test_gaussian_goldens(trust: str, noise: float, rounds: int, golden: float) -> None:
    found = asked(noise_multiplier=noise, rounds=rounds, trust=trust)
    assert found["epsilon"] == pytest.approx(golden, rel=1e-3)
    assert (found["solved"], found["is_guarantee"], found["delta"]) == ("epsilon", True, 1e-5)


def test_the_sampled_golden_lies_in_the_bracket_of_the_prv_accountant() -> None:
    found = asked(sampling_rate=0.1, noise_multiplier=1, rounds=100)
    assert found["epsilon"] == pytest.approx(7.0466, rel=1e-3)
    check = found["cross_check"]
    assert (check["lower"], check["upper"]) == pytest.approx((7.027, 7.067), abs=2e-3)
    assert check["agrees"] is True
    assert [point["round"] for point in found["curve"]] == list(range(1, 101))
    values = [point["epsilon"] for point in found["curve"]]
    assert values == sorted(values)
    assert values[-1] == found["epsilon"]
    assert values[9] == pytest.approx(epsilon([Charge(1.0, 0.1, 10)], 0.999e-5, grid=1e-3), rel=1e-6)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("noise", "golden", "tolerance"),
    [
        (0.46, 5.277, 2e-3),
        (0.60, 2.520, 2e-3),
        (1.00, 0.63, 5e-3),
        (1.45, 0.29, 5e-3),
    ],
)
def test_goldens_of_table_3(noise: float, golden: float, tolerance: float) -> None:
    """The table prints .46 and .60 for .45970 and .60442, whence its 5.29 and 2.47; two decimals for the others."""
    found = asked(clients=100, sampling_rate=0.05, rounds=20, delta=1 / 149, noise_multiplier=noise, trust="central")
    assert found["epsilon"] == pytest.approx(golden, abs=tolerance)


@pytest.mark.usefixtures("quick")
def test_rdp_is_a_labeled_comparison() -> None:
    found = asked(noise_multiplier=4, rounds=50, accountant="rdp")
    assert found["epsilon"] == pytest.approx(9.2350, rel=1e-3)
    assert found["epsilon_guaranteed"] == pytest.approx(8.5959, rel=1e-3)
    assert found["is_guarantee"] is False
    text = command(noise_multiplier=4, rounds=50, accountant="rdp").stdout
    assert "9.236 by RDP: comparison, not a guarantee (that is 8.597 by PLD (no client colludes" in text


@pytest.mark.usefixtures("quick")
def test_calibration_without_sampling() -> None:
    found = asked(epsilon=2, rounds=50)
    assert found["noise_multiplier"] == pytest.approx(14.098, rel=1e-3)
    assert 0.998 * 2 <= found["epsilon"] <= 2
    assert found["statistics_noise_multiplier"] is None


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("budget", "noise"), [(8, 0.558), (4, 0.746), (2, 0.998), (1, 1.366), (0.5, 2.04), (0.25, 3.38)]
)
def test_calibration_goldens(budget: float, noise: float) -> None:
    """The goldens have three digits and lie .1 % above the exact solutions (.9968, 2.0373, 3.3760, ...)."""
    found = asked(epsilon=budget, rounds=20, sampling_rate=0.05)
    assert found["noise_multiplier"] == pytest.approx(noise, rel=2e-3)
    assert 0.995 * budget <= found["epsilon"] <= budget


@pytest.mark.usefixtures("quick")
def test_rounds_are_the_most_that_fit() -> None:
    found = asked(epsilon=2, noise_multiplier=14.11)
    assert (found["solved"], found["rounds"]) == ("rounds", 50)
    more = asked(noise_multiplier=14.11, rounds=51)
    assert found["epsilon"] <= 2 < more["epsilon"]
    sampled = asked(epsilon=0.5, noise_multiplier=3, sampling_rate=0.05)["rounds"]
    pair = [asked(noise_multiplier=3, rounds=sampled + extra, sampling_rate=0.05)["epsilon"] for extra in (0, 1)]
    assert pair[0] <= 0.5 < pair[1]


@pytest.mark.usefixtures("quick")
def test_the_demo_is_planned_as_it_runs() -> None:
    flat = read_preset("demo")
    clients = flat["federation.num-clients"]
    config = RunConfig.parse(flat)
    plan = make_plan(config, int(clients), 256, statistics_stage(config.stage_one, 24))
    assert plan.stage_one is not None
    options = {"clients": clients, "sampling_rate": 0.1, "delta": 1e-5, "epsilon": 2, "rounds": 25}
    found = asked(**options, statistics_share=0.1, statistics_rate=0.1)
    assert flatten(flat)["num-server-rounds"] == 25
    assert found["noise_multiplier"] == pytest.approx(plan.round.noise_multiplier, rel=1e-2)
    assert found["statistics_noise_multiplier"] == pytest.approx(plan.stage_one.noise_multiplier, rel=1e-2)
    assert found["epsilon"] == pytest.approx(plan.epsilon, rel=1e-3)


@pytest.mark.usefixtures("quick")
def test_against_the_server_nothing_is_amplified() -> None:
    """A client is asked at most as often as the quantile that M clients exceed with delta/100."""
    rate, rounds, clients = 0.1, 40, 1000
    options = {"clients": clients, "sampling_rate": rate, "rounds": rounds, "delta": 1e-4}
    local = asked(**options, noise_multiplier=8, trust="local")
    times = int(binom.isf(1e-6 / clients, rounds, rate))
    assert local["participations"] == times
    assert local["epsilon_server_view"] == pytest.approx(exact_epsilon(math.sqrt(times) / 8, 0.989e-4), rel=1e-3)
    assert local["charged_sampling_rate"] == 1
    assert local["epsilon"] == pytest.approx(exact_epsilon(math.sqrt(rounds) / 8, 0.999e-4), rel=1e-3)
    shared = asked(**options, noise_multiplier=50, trust="distributed")
    share = 50 / math.sqrt(shared["noise_shares"])
    assert shared["epsilon_server_view"] == pytest.approx(exact_epsilon(math.sqrt(times) / share, 0.989e-4), rel=1e-3)
    central = asked(**options, noise_multiplier=8, trust="central")
    assert central["epsilon_server_view"] == "inf"


@pytest.mark.usefixtures("quick")
def test_stage_one_counts_against_the_server_too() -> None:
    found = asked(rounds=2, noise_multiplier=2, trust="local", statistics_share=0.1)
    assert found["statistics_noise_multiplier"] == 4
    mu = math.sqrt(2 / 4 + 1 / 16)
    assert found["epsilon_server_view"] == pytest.approx(exact_epsilon(mu, 0.988e-5), rel=1e-3)
    assert found["epsilon"] == pytest.approx(exact_epsilon(mu, 0.998e-5), rel=1e-3)


@pytest.mark.usefixtures("quick")
def test_more_than_twenty_is_not_claimed_and_says_so() -> None:
    found = asked(rounds=50, noise_multiplier=1)
    assert (found["epsilon"], found["curve"][-1]["epsilon"]) == ("inf", "inf")
    assert found["not_private_because"] == "epsilon is above 20"
    assert found["cross_check"] == {"unavailable": "epsilon is above 20"}


@pytest.mark.usefixtures("quick")
def test_a_long_curve_is_thinned() -> None:
    options = {"rounds": 1500, "noise_multiplier": 300}
    curve = asked(**options)["curve"]
    assert (len(curve), curve[0]["round"], curve[-1]["round"]) == (1000, 1, 1500)
    rows = command(**options).stdout.split("after round  epsilon (by PLD, the guarantee)\n")[1].splitlines()
    assert len(rows) == 10
    assert rows[-1].split()[0] == "1,500"


def test_text_states_the_terms_and_a_missing_cross_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server_app.privacy.account.cross_check", lambda *_, **__: NO_CHECK)
    text = command(rounds=3, noise_multiplier=5, trust="local", sampling_rate=0.5).stdout
    for part in (
        "not cross-checked: not in this test",
        "zero-out",
        "charged as 1 (no amplification)",
        "by PLD",
        "1e-05",
    ):
        assert part in text


@pytest.mark.usefixtures("quick")
def test_a_comparison_is_made_at_the_noise_that_the_guarantee_needs() -> None:
    options = {"sampling_rate": 0.1, "epsilon": 2, "rounds": 25}
    ours, theirs = asked(**options), asked(**options, accountant="rdp")
    assert ours["noise_multiplier"] == theirs["noise_multiplier"]
    assert theirs["epsilon_guaranteed"] == ours["epsilon"] < theirs["epsilon"] < 1.3 * ours["epsilon"]
    assert (theirs["is_guarantee"], ours["is_guarantee"]) == (False, True)


def test_the_second_accountant_is_asked_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    asked_for: list[object] = []
    monkeypatch.setattr("server_app.privacy.account.cross_check", lambda *_, **__: asked_for.append(1) or (1.0, 9.0))
    options = {"noise_multiplier": 3, "rounds": 5}
    result = json.loads(command("--json", "--no-check", **options).stdout)
    assert result["cross_check"] == {"unavailable": "--no-check"}
    assert not asked_for
    assert asked(**options)["cross_check"]["agrees"] is True
    refused = command("--no-check", accountant="prv", **options)
    assert "--accountant prv with --no-check" in refused.stderr


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("trust", "by_itself"), [("central", 0), ("distributed", 8 / 10), ("local", 8)])
def test_the_noise_of_one_message_is_stated(trust: str, by_itself: float) -> None:
    options = {"clients": 100, "delta": 1e-4, "noise_multiplier": 8, "rounds": 1, "trust": trust}
    assert asked(**options)["message_noise_multiplier"] == pytest.approx(by_itself, rel=1e-4)
    assert f"noise of one message        {by_itself:.4f} by itself" in command(**options).stdout


@pytest.mark.usefixtures("quick")
def test_why_nothing_is_claimed_against_the_server() -> None:
    options = {"noise_multiplier": 4, "rounds": 5}
    trusted = command(**options, trust="central").stdout
    assert "inf (nothing is claimed: the server is trusted with single messages, which carry no noise" in trusted
    assert "inf (nothing is claimed: epsilon is above 20)" in command(**options, clients=1000).stdout


def test_prv_gives_the_upper_end_of_its_bracket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server_app.privacy.account.cross_check", lambda *_, **__: (4.3, 4.4))
    found = asked(noise_multiplier=1, rounds=1, accountant="prv")
    assert (found["epsilon"], found["is_guarantee"]) == (4.4, False)
    monkeypatch.setattr("server_app.privacy.account.cross_check", cross_check)
    monkeypatch.setattr("common.privacy.crosscheck.sys.executable", "/bin/false")
    refused = command(noise_multiplier=1, rounds=1, accountant="prv")
    assert refused.exit_code == 1
    assert "--accountant prv: the PRV accountant failed" in refused.output


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epsilon": 2}, "give two of --epsilon, --noise-multiplier, --rounds, not --epsilon 2"),
        ({"epsilon": 2, "noise_multiplier": 1, "rounds": 5}, "give two of"),
        ({"epsilon": 2, "rounds": 5, "delta": 0.01}, "--delta = 0.01: delta = 0.01 must be positive and below 1/M"),
        ({"epsilon": "inf", "rounds": 5}, "--epsilon = inf: must be above 0 and finite"),
        ({"epsilon": 2, "rounds": 0}, "--rounds = 0: must be above 0"),
        ({"epsilon": 2, "rounds": 5, "sampling_rate": 1.5}, "--sampling-rate = 1.5: Input should be less than"),
        ({"epsilon": 2, "rounds": 5, "statistics_share": 1}, "--statistics-share = 1.0: Input should be less than 1"),
        ({"epsilon": 2, "rounds": 5, "statistics_rate": 0.1}, "--statistics-rate = 0.1: give --statistics-share too"),
        ({"epsilon": 2, "rounds": 5, "evaluation_every": 3}, "--evaluation-every = 3: give --evaluation-share too"),
        (
            {"epsilon": 2, "rounds": 5, "trust": "local", "colluders": 3},
            "--colluders = 3: no effect with --trust local",
        ),
        ({"epsilon": 2, "rounds": 5, "dropouts": 3}, "--dropouts = 3: no effect without --trust secure"),
        ({"epsilon": 2, "rounds": 5, "delta": 1e-30}, "--delta = 1e-30: delta = 1e-30 is below 1e-10"),
        ({"epsilon": 2, "rounds": 5, "code_values": 10**20}, "--code-values = 100,000,000,000,000,000,000: 1,000"),
        ({"noise_multiplier": 1e6, "rounds": 5, "trust": "local"}, "--noise-multiplier = 1e+06: no message can carry"),
        (
            {"noise_multiplier": 6e5, "rounds": 5, "statistics_share": 0.1, "trust": "central"},
            "--noise-multiplier = 600000: no message can carry",
        ),
        ({"epsilon": 20.1, "rounds": 5}, "--epsilon = 20.1: nothing above 20 is claimed"),
        ({"epsilon": 0.1, "noise_multiplier": 0.5}, "--epsilon = 0.1: not even one round fits"),
        (
            {"noise_multiplier": 2, "rounds": 5, "accountant": "gdp", "statistics_share": 0.1, "sampling_rate": 0.2},
            "--accountant gdp: equation (7)",
        ),
    ],
)
@pytest.mark.usefixtures("quick")
def test_what_makes_no_sense_is_refused_naming_the_option(options: dict[str, Any], words: str) -> None:
    refused = command(**options)
    assert refused.exit_code == 1
    assert words in refused.output


@pytest.mark.usefixtures("quick")
def test_a_larger_code_sets_more_of_delta_aside() -> None:
    """A million clients, each with a share: what a run of that size would set aside, up to all that there is."""
    options = {"clients": 1_000_000, "delta": 1e-9, "noise_multiplier": 4, "rounds": 2}
    aside = [asked(code_values=size, **options)["delta_set_aside"] for size in (256, 10_000)]
    assert aside[0] < 0.9 * aside[1] < 0.9e-9
    refused = command(code_values=10**8, **options)
    assert refused.exit_code == 1
    assert "--delta = 1e-09" in refused.stderr
    assert "100,000,000 values" in refused.stderr


@pytest.mark.usefixtures("quick")
def test_colluders_leave_the_charge_as_it_is_and_add_to_every_message() -> None:
    alone, together = (
        asked(clients=100, noise_multiplier=40, rounds=4, colluders=number, statistics_share=0.1) for number in (0, 60)
    )
    assert alone["epsilon"] == together["epsilon"]
    mu = math.sqrt((4 / 40**2 + 1 / 80**2) * (100 - 60))  # each of 100 shares is of std z·√(100/40)/√100
    assert together["epsilon_server_view"] == pytest.approx(exact_epsilon(mu, 0.99e-5), rel=1e-3)
    assert alone["epsilon_server_view"] > together["epsilon_server_view"]


def test_one_curious_client_is_reckoned_with_unless_the_question_says_otherwise() -> None:
    words = ["budget", "--clients=100", "--sampling-rate=0.5", "--noise-multiplier=8", "--rounds=2", "--no-check"]
    said = CliRunner().invoke(app, words).stdout
    assert "by PLD (at most 1 client colludes, cohorts stay secret)" in said
    assert (
        "by PLD (no client colludes, cohorts stay secret)" in CliRunner().invoke(app, [*words, "--colluders=0"]).stdout
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"colluders": 10_000}, "--colluders = 10000: must be below the 10,000 noise shares"),
    ],
)
def test_colluders_are_refused_by_the_options_name(options: dict[str, Any], said: str) -> None:
    refused = command(noise_multiplier=4, rounds=2, **options)
    assert refused.exit_code == 1
    assert said in refused.stderr


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_after_each_round_private_evaluations_count_as_far_as_they_have_come(rate: float) -> None:
    """All of the run's were counted from round 1 on, 17 % above what the run itself told then."""
    found = asked(
        clients=12, sampling_rate=rate, rounds=5, epsilon=8, evaluation_share=0.3, evaluation_every=2, trust="central"
    )
    noise, of_scores = found["noise_multiplier"], found["evaluation_noise_multiplier"]
    for point, scores in zip(found["curve"], (1, 2, 2, 3, 4), strict=True):  # the base model's, 2, 4 and the last
        charges = [Charge(of_scores, count=scores), Charge(noise, found["charged_sampling_rate"], point["round"])]
        expected = epsilon(charges, found["delta"] - found["delta_set_aside"])
        assert point["epsilon"] == pytest.approx(expected, rel=0.01)
