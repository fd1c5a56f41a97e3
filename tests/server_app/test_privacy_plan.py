"""From the configuration to a plan of charges, checked with dp_accounting itself."""

import math
from typing import Any

import pytest
from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant
from scipy.stats import binom

from common.config import ConfigError, RunConfig
from common.privacy.accounting import Charge
from server_app.privacy import solving
from server_app.privacy.plan import PrivacyPlan
from server_app.privacy.solving import make_plan
from server_app.privacy.stage_one import statistics_stage

BASE: dict[str, Any] = {
    "num-server-rounds": 5,
    "privacy.sampling-rate": 0.2,
    "stage-one.sampling-rate": 0.2,
}
CLEAR = {"privacy.epsilon": math.inf}
CLIENTS, CODE, SCALES = 100, 64, 17


def planned(
    changes: dict[str, Any] | None = None, clients: int = CLIENTS, scales: int = SCALES, budget: float = 0.0
) -> PrivacyPlan:
    config = RunConfig.parse({**BASE, **(changes or {})})
    return make_plan(
        config, clients, CODE, statistics_stage(config.stage_one, scales) if scales else None, budget=budget
    )


def spent(charges: list[Charge], delta: float) -> float:
    """Epsilon by dp_accounting's public accountant, without any code of this project."""
    accountant = PLDAccountant(NeighboringRelation.REPLACE_SPECIAL, value_discretization_interval=1e-3)
    for charge in charges:
        event = SelfComposedDpEvent(GaussianDpEvent(charge.noise_multiplier), charge.count)
        if charge.sampling_rate < 1:
            sampled = PoissonSampledDpEvent(charge.sampling_rate, GaussianDpEvent(charge.noise_multiplier))
            event = SelfComposedDpEvent(sampled, charge.count)
        accountant.compose(event)
    return float(accountant.get_epsilon(delta))


def all_charges(plan: PrivacyPlan) -> list[Charge]:
    rounds = Charge(plan.round.noise_multiplier, plan.round.sampling_rate, plan.rounds)
    return [plan.stage_one, rounds] if plan.stage_one else [rounds]


@pytest.mark.parametrize(("trust", "epsilon"), [("central", 0.5), ("distributed", 8.0), ("local", 1.0)])
def test_the_whole_run_costs_what_was_asked_for_and_hardly_less(trust: str, epsilon: float) -> None:
    plan = planned({"privacy.epsilon": epsilon, "privacy.trust": trust})
    assert 0.99 * epsilon <= plan.epsilon <= epsilon
    assert spent(all_charges(plan), plan.delta) == pytest.approx(plan.epsilon, rel=5e-3)
    assert plan.reason == ""
    assert plan.rounds == 5


@pytest.mark.parametrize(
    ("changes", "clients", "said"),
    [
        ({"privacy.colluders": 60}, CLIENTS, "privacy.colluders = 60: must be below the"),
        ({"privacy.sampling-rate": 0.9, "privacy.colluders": 60}, CLIENTS, "privacy.colluders = 60: must be below the"),
        ({"privacy.delta": 0.0}, 10**8, "federation.num-clients = 100,000,000: a cohort of theirs may need"),
    ],
    ids=["rounds", "stage one", "shares"],
)
def test_shares_that_cannot_be_are_refused_before_the_noise_is_solved(
    changes: dict[str, Any], clients: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(solving, "_solved", lambda *_, **__: pytest.fail("seconds were spent"))
    with pytest.raises(ConfigError, match=said):
        planned(changes, clients)


def test_more_clients_than_shares_are_planned_for_where_a_cohort_is_small() -> None:
    """A private evaluation asks all of them, and was priced even where there is none."""
    changes = {"privacy.delta": 0.0, "privacy.sampling-rate": 1e-7, "stage-one.sampling-rate": 1e-7}
    assert planned(changes, 10**9).shares < 1_000
    with pytest.raises(ConfigError, match="may need 1,000,000,000 noise shares"):
        planned({**changes, "evaluation.private": 0.1}, 10**9)


def test_stage_one_costs_its_share() -> None:
    plan = planned({"privacy.statistics-share": 0.3, "privacy.epsilon": 4.0})
    assert plan.stage_one is not None
    assert 0.98 * 1.2 <= spent([plan.stage_one], plan.delta) <= 1.2 * 1.001


def test_without_a_stage_one_the_rounds_get_the_whole_budget() -> None:
    plan, both = planned(scales=0), planned()
    assert plan.stage_one is None
    assert plan.round.noise_multiplier < both.round.noise_multiplier
    assert 0.99 * 2.0 <= plan.epsilon <= 2.0


def test_statistics_in_the_clear_make_epsilon_infinite_and_say_why() -> None:
    plan = planned({"stage-one.private": False})
    assert plan.epsilon == math.inf
    assert plan.stage_one == Charge(0.0, 0.2, label="stage 1: statistics")
    assert plan.round.noise_multiplier > 0
    assert "stage-one.private = false" in plan.reason


def test_infinite_epsilon_means_no_noise_and_says_why() -> None:
    plan = planned(CLEAR)
    assert (plan.epsilon, plan.slack, plan.rounds) == (math.inf, 0.0, 5)
    assert plan.stage_one == Charge(0.0, 0.2, label="stage 1: statistics")
    assert plan.round == Charge(0.0, 0.2, label="stage 2: gradient")
    assert planned(CLEAR, scales=0).stage_one is None
    assert "privacy.epsilon = inf" in plan.reason


def test_a_named_noise_is_used_and_its_epsilon_told() -> None:
    plan = planned({"privacy.epsilon": 0.0, "privacy.noise-multiplier": 1.5})
    assert plan.stage_one is not None
    assert (plan.round.noise_multiplier, plan.stage_one.noise_multiplier) == (1.5, 3.0)
    assert plan.epsilon == pytest.approx(spent(all_charges(plan), plan.delta), rel=5e-3)


def test_local_trust_is_not_amplified_by_sampling() -> None:
    local, distributed = planned({"privacy.trust": "local"}), planned()
    assert all(charge.sampling_rate == 1.0 for charge in all_charges(local))
    assert all(charge.sampling_rate == 0.2 for charge in all_charges(distributed))
    assert local.round.noise_multiplier > 2 * distributed.round.noise_multiplier


def test_a_budget_gives_the_rounds_that_it_pays_for() -> None:
    stop = 1.8
    plan = planned(budget=stop)
    assert plan.stage_one is not None
    assert 0 < plan.rounds < 5
    assert plan.epsilon <= stop
    one_more = Charge(plan.round.noise_multiplier, 0.2, plan.rounds + 1)
    assert spent([plan.stage_one, one_more], plan.delta) > stop


def test_a_budget_that_pays_for_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"privacy\.epsilon = 0\.01: not even one round"):
        planned(budget=0.01)


@pytest.mark.parametrize("delta", [1 / 100, 0.5])
def test_a_delta_of_one_over_m_or_more_is_refused(delta: float) -> None:
    with pytest.raises(ConfigError, match=r"privacy\.delta = .*below 1/M = 0\.01 for M = 100 clients"):
        planned({"privacy.delta": delta})


def test_delta_zero_is_a_tenth_of_one_over_m() -> None:
    assert planned({"privacy.delta": 0.0, **CLEAR}).delta == pytest.approx(1e-3)
    assert planned({"privacy.delta": 0.0099, **CLEAR}).delta == 0.0099


def test_a_budget_that_no_noise_can_keep_is_refused_naming_it() -> None:
    with pytest.raises(ConfigError, match=r"privacy\.epsilon = 1e-09: no budget left"):
        planned({"privacy.epsilon": 1e-9})


def test_the_expected_cohort_is_public() -> None:
    assert planned(CLEAR).expected_cohort == pytest.approx(20.0)


@pytest.mark.parametrize(("noise", "claimed"), [(0.5, True), (0.3, False)])
def test_an_epsilon_beyond_twenty_is_not_claimed(noise: float, claimed: bool) -> None:
    plan = planned({"privacy.epsilon": 0.0, "privacy.noise-multiplier": noise, "privacy.trust": "central"})
    assert (spent(all_charges(plan), plan.delta) < 20) == claimed
    assert math.isfinite(plan.epsilon) == claimed


@pytest.mark.parametrize(("clients", "rate"), [(100, 0.2), (1000, 0.05), (20, 1.0)])
def test_noise_shares_are_public_and_no_cohort_exceeds_them(clients: int, rate: float) -> None:
    """The probability that one does in some round, or in stage 1, is taken out of delta."""
    rates = {"privacy.sampling-rate": rate, "stage-one.sampling-rate": rate}
    plan = planned(rates, clients=clients)
    tail = 1e-3 * plan.delta
    beyond = [float(binom.sf(shares, clients, rate)) for shares in (plan.shares, plan.stage_one_shares)]
    assert 5 * beyond[0] <= tail
    assert beyond[1] <= tail
    assert rate == 1.0 or 5 * binom.sf(plan.shares - 1, clients, rate) > tail
    assert rate == 1.0 or binom.sf(plan.stage_one_shares - 1, clients, rate) > tail
    assert 5 * beyond[0] + beyond[1] <= plan.slack < 3e-3 * plan.delta
    assert plan.stage_one_shares <= plan.shares <= clients


def test_each_stage_has_the_shares_of_its_own_sampling_rate() -> None:
    plan = planned({"stage-one.sampling-rate": 0.6})
    assert plan.shares < 60 < plan.stage_one_shares


def test_no_more_than_half_of_delta_is_set_aside() -> None:
    """Of a run that cannot go on ε is told at the other half; and at .99 of it there was no ε against the server."""
    keys = {"privacy.delta": 1e-6, "num-server-rounds": 200}
    config = RunConfig.parse(keys)
    assert 0.4e-6 < make_plan(config, 100_000, 8_000_000, None).slack < 0.5e-6
    for size in (10_000_000, 19_000_000):
        with pytest.raises(ConfigError, match="50% of it is the most"):
            make_plan(config, 100_000, size, None)
