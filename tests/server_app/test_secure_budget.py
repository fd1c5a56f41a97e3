"""ε under secure aggregation: of clients' own coins, by a computation that shares nothing with the accountants."""

import math

import numpy as np
import pytest
from scipy.signal import fftconvolve
from scipy.stats import norm

from common.config import ConfigError, RunConfig
from common.privacy.mechanism import ReleaseTerms
from common.privacy.price import noise_slack, outsider_charge
from server_app.privacy.account import assumptions
from server_app.privacy.plan import PrivacyPlan
from server_app.privacy.solving import make_plan
from server_app.privacy.stage_one import statistics_stage
from workbench.planning.budget import solve
from workbench.planning.budget_request import BudgetRequest

DELTA = 1e-5
GRID = 5e-4


def planned(clients: int, rate: float, **changes: object) -> tuple[RunConfig, PrivacyPlan]:
    flat = {"privacy.trust": "secure", "privacy.sampling-rate": rate, "federation.num-clients": clients}
    config = RunConfig.parse(flat | changes)
    return config, make_plan(config, clients, 256, None)


def delta_of_coins(epsilon: float, noise: float, rate: float, rounds: int) -> float:
    """δ(ε) of the sum with a client's secret coin against the sum with zeros in its place, after ``rounds``.

    The loss of one round on a fine lattice, rounded up, convolved with itself; both orders of the neighbors.
    """
    return max(_one_order(epsilon, noise, rate, rounds, swapped=swapped) for swapped in (False, True))


def _one_order(epsilon: float, noise: float, rate: float, rounds: int, *, swapped: bool) -> float:
    cells = np.linspace(-12 * noise, 1 + 12 * noise, 400_001)
    middle = (cells[1:] + cells[:-1]) / 2
    without = np.diff(norm.cdf(cells, 0, noise))
    with_coin = (1 - rate) * without + rate * np.diff(norm.cdf(cells, 1, noise))
    loss = np.log1p(rate * np.expm1((2 * middle - 1) / (2 * noise**2)))
    weight, loss = (without, -loss) if swapped else (with_coin, loss)
    place = np.ceil(loss / GRID).astype(int)
    low = place.min()
    single = np.bincount(place - low, weight)
    total, first, power, start = np.ones(1), 0, single, low
    for bit in bin(rounds)[:1:-1]:
        if bit == "1":
            total, first = np.clip(fftconvolve(total, power), 0, None), first + start
        power, start = np.clip(fftconvolve(power, power), 0, None), 2 * start
    losses = (first + np.arange(total.size)) * GRID
    above = losses > epsilon
    return float(np.sum(total[above] * -np.expm1(epsilon - losses[above])))


@pytest.mark.parametrize(("clients", "rate"), [(20, 1.0), (100, 0.2), (100, 1.0), (1000, 0.25)])
def test_the_printed_epsilon_is_that_of_the_clients_own_coins(clients: int, rate: float) -> None:
    config, plan = planned(clients, rate)
    noise = plan.round.noise_multiplier
    assert plan.epsilon <= 2.0
    assert delta_of_coins(plan.epsilon * 1.01, noise, rate, config.num_server_rounds) <= DELTA
    assert delta_of_coins(plan.epsilon * 0.97, noise, rate, config.num_server_rounds) > DELTA * 0.99


@pytest.mark.parametrize(("clients", "rate", "plainly"), [(20, 1.0, 11.2), (100, 1.0, math.inf), (100, 0.2, math.inf)])
def test_against_the_server_epsilon_is_that_of_the_released_model(clients: int, rate: float, plainly: float) -> None:
    """In ``distributed`` trust it is what is written beside it."""
    given = {"clients": clients, "sampling_rate": rate, "delta": DELTA, "epsilon": 2.0, "rounds": 40, "check": False}
    secure = solve(BudgetRequest(**given, trust="secure"), curve_points=2)  # type: ignore[arg-type]
    plain = solve(BudgetRequest(**given), curve_points=2)  # type: ignore[arg-type]
    assert secure.epsilon_server_view == secure.epsilon == pytest.approx(2.0, abs=0.01)
    assert plain.epsilon_server_view == pytest.approx(plainly, rel=0.01)


@pytest.mark.parametrize(("dropouts", "colluders"), [(0, 0), (1, 1), (5, 3), (12, 7)])
def test_what_honest_survivors_add_is_never_less_than_what_is_charged(dropouts: int, colluders: int) -> None:
    """In a round, in stage 1 and in a private evaluation."""
    flat = {"privacy.trust": "secure", "privacy.sampling-rate": 1.0, "evaluation.private": 0.2}
    config = RunConfig.parse(flat | {"privacy.dropouts": dropouts, "privacy.colluders": colluders})
    stage = statistics_stage(config.stage_one, 73)
    plan = make_plan(config, 20, 256, stage)
    released = (
        (plan.round, plan.round_terms(256)),
        (plan.stage_one, plan.stage_one_terms(stage)),
        (plan.evaluation, plan.evaluation_terms),
    )
    for charge, terms in released:
        assert charge is not None
        assert terms is not None
        assert terms.shares == 20
        counted = terms.noise_of_shares(20 - dropouts - colluders)
        assert charge.noise_multiplier * (1 - 1e-12) <= counted <= charge.noise_multiplier * (1 + 1e-5)


def test_both_legs_are_paid_for_out_of_delta() -> None:
    """A client gives two releases of 20 shares in a round, where ``distributed`` gives one with a top-up."""
    secure, plain = (ReleaseTerms(256, 1.0, 2.0, trust, 20, normalize=True) for trust in ("secure", "distributed"))
    assert noise_slack(secure) / noise_slack(plain) == pytest.approx(2 * 20 / 21, rel=1e-3)


def test_more_drop_outs_cost_noise() -> None:
    few, many = (planned(20, 1.0, **{"privacy.dropouts": number}) for number in (0, 8))
    assert few[1].mean_noise(256) < many[1].mean_noise(256)
    terms = ReleaseTerms(256, 1.0, 2.0, "secure", 20, normalize=True)
    assert outsider_charge(terms, 0.2).sampling_rate == 0.2


def test_the_charge_of_stage_one_is_amplified_by_its_own_coins() -> None:
    flat = {"privacy.trust": "secure", "privacy.sampling-rate": 0.2, "stage-one.sampling-rate": 0.5}
    config = RunConfig.parse(flat)
    plan = make_plan(config, 100, 256, statistics_stage(config.stage_one, 73))
    assert plan.stage_one is not None
    assert (plan.stage_one.sampling_rate, plan.stage_one_shares, plan.shares) == (0.5, 100, 100)
    assert plan.clients_asked(cover=False) == 100
    assert "each client keeps its coins to itself" in assumptions(plan)
    assert "coins" not in assumptions(planned(20, 1.0)[1])


def test_more_clients_than_can_be_masked_with_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match="at most 1,000 can take part"):
        planned(1001, 0.1)
