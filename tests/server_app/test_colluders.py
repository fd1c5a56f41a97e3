"""``privacy.colluders``: what is left of the noise when some clients give their shares away."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from common.config import ConfigError, RunConfig
from common.model.adapted import AdaptedModel
from common.privacy.accounting import epsilon
from common.privacy.mechanism import ReleaseTerms, combine, release
from common.privacy.noise import RandomSource
from server_app.privacy.account import assumptions
from server_app.privacy.plan import PrivacyPlan
from server_app.privacy.shares import noise_against
from server_app.privacy.solving import make_plan
from server_app.privacy.stage_one import statistics_stage
from server_app.run import check_run
from server_app.strategies.dr_encoder import DrEncoder
from tests.support.false_alarms import rms_outside, statistical

PLANNED = {"privacy.epsilon": 2.0, "privacy.delta": 1e-5, "privacy.sampling-rate": 0.1, "num-server-rounds": 20}


def config(colluders: int) -> RunConfig:
    return RunConfig.parse(PLANNED | {"privacy.colluders": colluders})


def planned(colluders: int) -> PrivacyPlan:
    return make_plan(config(colluders), 1000, 256, statistics_stage(config(colluders).stage_one, 20))


@statistical(rms_outside(0.975, 1.025, 20_000), "seeded")
def test_the_noise_left_without_the_colluders_shares_is_the_noise_that_is_charged() -> None:
    """All 12 shares are there; three are subtracted again: std of 20,000 values within 2.5 %, five standard errors."""
    charged, colluders, shares, size = 1.5, 3, 12, 20_000
    terms = ReleaseTerms(size, 2.0, noise_against(colluders, charged, shares), "distributed", shares, normalize=False)
    source = RandomSource.insecure(5)
    sent = [release(torch.zeros(size), terms, source) for _ in range(shares)]
    total = combine(sent, terms, source).numpy()
    known = np.sum(sent[:colluders], axis=0) * terms.grid_step
    assert (total - known).std() == pytest.approx(charged * terms.clip_norm, rel=0.025)


@pytest.mark.parametrize("noise", [0.01, 0.5, 1.5, 100.0])
@pytest.mark.parametrize(("shares", "colluders"), [(2, 1), (12, 3), (1000, 999), (2**20, 2**20 - 1)])
def test_the_others_also_pay_for_the_whole_discretisation(noise: float, shares: int, colluders: int) -> None:
    """Variances in grid steps, exactly: z²B² + 4 must be left, of which the colluders' shares held a part of the 4."""
    more = noise_against(colluders, noise, shares)
    terms = ReleaseTerms(256, 1.0, more, "distributed", shares, normalize=False)
    left = terms.total_variance * (shares - colluders) / shares
    assert left >= (noise * terms.resolution) ** 2 + 4
    assert left <= 1.5 * ((noise * terms.resolution) ** 2 + 4)


@statistical(rms_outside(1.65 / (1.5 * (12 / 9) ** 0.5), math.inf, 20_000), "seeded")
def test_missing_colluders_leave_more_than_is_charged() -> None:
    """They were selected and sent nothing: the server tops up, and nobody can subtract its part."""
    terms = ReleaseTerms(20_000, 1.0, noise_against(3, 1.5, 12), "distributed", 12, normalize=False)
    total = combine([], terms, RandomSource.insecure(6)).numpy()
    assert total.std() > 1.5 * 1.1


@pytest.mark.parametrize("colluders", [0, 1, 40])
def test_both_stages_carry_it_and_the_charge_stays(adapted: AdaptedModel, colluders: int) -> None:
    plan, plain = planned(colluders), planned(0)
    assert plan.round == plain.round
    factor = np.sqrt(plan.shares / (plan.shares - colluders))
    terms = plan.round_terms(256)
    assert terms.noise_multiplier == pytest.approx(plan.round.noise_multiplier * factor)
    stage = DrEncoder.recipe_for(config(colluders), adapted.layout).stage_one
    first = plan.stage_one_terms(stage)
    assert plan.stage_one is not None
    share = np.sqrt(plan.stage_one_shares / (plan.stage_one_shares - colluders))
    assert first.noise_multiplier == pytest.approx(plan.stage_one.noise_multiplier * share)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"privacy.colluders": 12}, r"privacy\.colluders = 12: must be below the 12 noise shares"),
        ({"privacy.colluders": 9, "privacy.dropouts": 3, "privacy.trust": "secure"}, "nobody is left whose noise"),
    ],
)
def test_too_many_colluders_are_refused_before_a_model_is_loaded(changes: dict[str, Any], message: str) -> None:
    few = {"federation.num-clients": 12, "privacy.sampling-rate": 1.0}
    with pytest.raises(ConfigError, match=message):
        check_run(RunConfig.parse(PLANNED | few | changes))


def test_as_many_colluders_as_shares_are_refused() -> None:
    plan = planned(0)
    with pytest.raises(ConfigError, match=rf"privacy\.colluders = {plan.shares}: must be below the {plan.shares}"):
        replace(plan, privacy=config(plan.shares).privacy).round_terms(256)


@pytest.mark.parametrize("trust", ["central", "local"])
def test_where_noise_is_not_shared_nobody_can_subtract_any(trust: str) -> None:
    """Whatever the key says: the noise is that of the charge, which no other client knows a part of."""
    chosen = RunConfig.parse(PLANNED | {"privacy.colluders": 5, "privacy.trust": trust})
    plan = make_plan(chosen, 1000, 256, None)
    assert plan.round_terms(256).noise_multiplier == plan.round.noise_multiplier
    assert assumptions(plan).startswith("any number of clients may collude")


def test_one_client_alone_has_no_other_to_fear() -> None:
    chosen = RunConfig.parse({"privacy.delta": 1e-5, "privacy.sampling-rate": 1.0, "num-server-rounds": 2})
    plan = make_plan(chosen, 1, 256, None)
    assert plan.round_terms(256).noise_multiplier == plan.round.noise_multiplier
    assert assumptions(plan).startswith("no client colludes")


def test_by_default_epsilon_holds_against_one_curious_client_that_subtracts_its_own_share() -> None:
    """Three sites as in ``deploy-demo``: without the default its 4.26 would be 5.77 against any one of them."""
    chosen = RunConfig.parse({"privacy.sampling-rate": 1.0, "privacy.delta": 1e-5, "num-server-rounds": 20})
    plan = make_plan(chosen, 3, 256, None)
    terms = plan.round_terms(256)
    left = terms.noise_multiplier * math.sqrt((plan.shares - 1) / plan.shares)
    assert left == pytest.approx(plan.round.noise_multiplier, rel=1e-6)
    assert left >= plan.round.noise_multiplier
    assert epsilon([replace(plan.round, noise_multiplier=left, count=20)], plan.delta - plan.slack) <= plan.epsilon
    assert plan.epsilon <= chosen.privacy.epsilon
