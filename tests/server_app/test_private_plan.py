"""What private evaluations cost, and how precise they are: against dp_accounting and closed forms."""

import math
from typing import Any

import pytest
from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant

from common.config import ConfigError, RunConfig
from common.privacy.gaussian import gaussian_mu
from common.score_code import LOSS_BOUND
from server_app.privacy.plan import PrivacyPlan
from server_app.privacy.scores import score_slack
from server_app.privacy.solving import make_plan
from server_app.privacy.stage_one import statistics_stage
from server_app.rounds.private_scores import imprecision
from tests.support.exact import exact_epsilon

BASE: dict[str, Any] = {
    "num-server-rounds": 12,
    "evaluation.every": 5,
    "evaluation.private": 0.1,
    "privacy.sampling-rate": 0.2,
    "stage-one.sampling-rate": 0.2,
}
CLIENTS = 100


def config_of(**changes: Any) -> RunConfig:
    return RunConfig.parse(BASE | {name.replace("_", "."): value for name, value in changes.items()})


def planned(config: RunConfig, clients: int = CLIENTS) -> PrivacyPlan:
    return make_plan(config, clients, 64, statistics_stage(config.stage_one, 17))


def spent(plan: PrivacyPlan) -> float:
    """Epsilon of stage 1, all evaluations and all rounds by dp_accounting's own accountant."""
    accountant = PLDAccountant(NeighboringRelation.REPLACE_SPECIAL, value_discretization_interval=1e-3)
    assert plan.stage_one
    assert plan.evaluation
    for charge, count in ((plan.stage_one, 1), (plan.evaluation, plan.evaluations), (plan.round, plan.rounds)):
        event: Any = GaussianDpEvent(charge.noise_multiplier)
        if charge.sampling_rate < 1:
            event = PoissonSampledDpEvent(charge.sampling_rate, event)
        accountant.compose(SelfComposedDpEvent(event, count))
    return float(accountant.get_epsilon(plan.delta - plan.slack))


@pytest.mark.parametrize(
    ("trust", "epsilon"), [("central", 0.5), ("distributed", 8.0), ("local", 1.0), ("secure", 2.0)]
)
def test_the_printed_epsilon_is_of_rounds_and_evaluations_together(trust: str, epsilon: float) -> None:
    plan = planned(config_of(privacy_epsilon=epsilon, privacy_trust=trust))
    assert plan.evaluations == 4  # the base model's, after rounds 5 and 10, and after the last
    assert 0.98 * epsilon <= plan.epsilon <= epsilon
    assert spent(plan) == pytest.approx(plan.epsilon, rel=5e-3)


@pytest.mark.parametrize("share", [0.05, 0.25])
def test_all_evaluations_cost_their_share_by_closed_form(share: float) -> None:
    plan = planned(RunConfig.parse(BASE | {"evaluation.private": share}))
    assert plan.evaluation
    assert plan.evaluation.sampling_rate == 1.0
    mu = math.sqrt(plan.evaluations) / plan.evaluation.noise_multiplier
    cost = exact_epsilon(mu, plan.delta - plan.slack)
    assert 0.98 * share * 2.0 <= cost <= share * 2.0


def test_where_the_noise_is_given_they_cost_a_share_of_what_the_rounds_come_to() -> None:
    given = {"privacy.epsilon": 0.0, "privacy.noise-multiplier": 1.5}
    without, plan = (planned(RunConfig.parse(BASE | given | {"evaluation.private": share})) for share in (0.0, 0.1))
    assert plan.evaluation
    mu = math.sqrt(plan.evaluations) / plan.evaluation.noise_multiplier
    assert exact_epsilon(mu, plan.delta - plan.slack) == pytest.approx(0.1 * without.epsilon, rel=0.02)
    assert without.epsilon < plan.epsilon < 1.1 * without.epsilon


def test_their_share_costs_the_rounds_little() -> None:
    """Gaussians add up by squares: a quarter of epsilon makes the noise of the rounds larger by less than a tenth."""
    noise = [planned(RunConfig.parse(BASE | {"evaluation.private": share})).round for share in (0.0, 0.05, 0.25)]
    factors = [each.noise_multiplier / noise[0].noise_multiplier for each in noise]
    assert 1.0 <= factors[1] < 1.02
    assert factors[1] < factors[2] < 1.1


@pytest.mark.parametrize("trust", ["central", "distributed", "local", "secure"])
def test_the_told_precision_is_the_noise_on_the_mean(trust: str) -> None:
    """z/(√2·M) for accuracy in points, times the loss bound for the loss; more with colluders, drop-outs, or in local.

    From the definition: codes of norm 1, each score over √2, noise z on their sum, M clients.
    """
    config = config_of(privacy_trust=trust)
    plan = planned(config)
    assert plan.evaluation
    sum_noise = (
        plan.evaluation.noise_multiplier
        * {
            "central": 1.0,
            "distributed": math.sqrt(CLIENTS / (CLIENTS - 1)),
            "local": math.sqrt(CLIENTS),
            "secure": math.sqrt(CLIENTS / (CLIENTS - 2)),
        }[trust]
    )
    loss, accuracy = plan.score_noise
    assert accuracy == pytest.approx(sum_noise / math.sqrt(2) / CLIENTS, rel=1e-3)
    assert loss == pytest.approx(LOSS_BOUND * accuracy)


@pytest.mark.parametrize(("clients", "delta", "expected"), [(20, 5e-3, 0.42), (100, 1e-3, 0.123), (1000, 1e-4, 0.0173)])
def test_precision_of_one_evaluation_for_five_percent_of_two(clients: int, delta: float, expected: float) -> None:
    """By closed form alone: mu of ε = .1, then 1/(√2·mu·M)."""
    assert 1 / (math.sqrt(2) * gaussian_mu(0.1, delta) * clients) == pytest.approx(expected, rel=0.01)


def test_delta_is_set_aside_for_their_discrete_noise() -> None:
    plan, without = planned(config_of()), planned(RunConfig.parse(BASE | {"evaluation.private": 0.0}))
    extra = plan.evaluations * score_slack(config_of().privacy, CLIENTS)
    assert plan.slack - without.slack == pytest.approx(extra)
    assert extra > 0


def test_nothing_is_asked_for_by_default_and_without_privacy_nothing_is_noised() -> None:
    config = RunConfig.parse(BASE | {"evaluation.private": 0.0})
    assert planned(config).evaluation is None
    assert planned(config).evaluation_terms is None
    clear = RunConfig.parse(BASE | {"privacy.epsilon": math.inf})
    plan = planned(clear)
    assert plan.evaluation
    assert (plan.evaluation.noise_multiplier, plan.epsilon) == (0.0, math.inf)


def test_who_will_see_nothing_but_noise_is_told_so_in_one_line() -> None:
    few, many = (planned(config_of(), clients).score_noise for clients in (20, 2000))
    said = imprecision(*few, 4, 20)
    assert "evaluation.private" in said
    assert "20 clients" in said
    assert "\n" not in said
    assert imprecision(*many, 4, 2000) == ""
    assert imprecision(0.0, 0.0, 4, 20) == ""


@pytest.mark.parametrize("share", [1.0, -0.1, "much"])
def test_a_share_out_of_range_is_refused_by_its_key(share: Any) -> None:
    with pytest.raises(ConfigError, match=r"evaluation\.private"):
        RunConfig.parse({"evaluation.private": share})
