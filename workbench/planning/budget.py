"""Plan a privacy budget without a run: of epsilon, noise and rounds, two are given and the third is solved.

The plan is ``make_plan``'s own, so a run with the same settings charges the same. Every epsilon is at delta less what
a run sets aside for cohorts beyond the noise shares and for discrete noise (a thousandth for each stage).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from common.config import LARGEST_ROUNDS, ConfigError
from common.counts import count
from common.privacy.accounting import Charge, RunningAccountant, epsilon
from common.privacy.price import message_charge
from common.score_code import LOSS_BOUND
from server_app.privacy.account import (
    assumptions,
    compare_with_prv,
    cross_check_sentence,
    epsilon_of_messages,
    participation_limit,
)
from server_app.privacy.plan import PrivacyPlan, provable, why_infinite
from server_app.privacy.solving import make_plan
from server_app.privacy.stage_one import StageOne, statistics_stage
from server_app.results.json_lines import finite
from server_app.results.units import show, show_delta, show_multiplier
from workbench.planning.budget_request import Accountant, BudgetRequest, as_options, config_of

ADJACENCY = "zero-out: one client's whole contribution replaced by zero"
_CURVE_POINTS, _TABLE_POINTS = 1000, 10


@dataclass(frozen=True)
class Budget:
    """The answer: ``plan`` with its charges, and every figure that a report would state.

    ``epsilon``: of the released model by the accountant that was asked for; ``plan.epsilon`` is the guarantee.
    ``message_noise_multiplier``: of one message of a round by itself.
    ``epsilon_server_view``: of one client against the server. ``curve``: (rounds, epsilon) by PLD, an upper bound.
    """

    request: BudgetRequest
    plan: PrivacyPlan
    epsilon: float
    message_noise_multiplier: float
    epsilon_server_view: float
    participations: int
    cross_check: dict[str, Any]
    curve: list[tuple[int, float]]


def solve(request: BudgetRequest, *, curve_points: int) -> Budget:
    """Answer ``request``, with at most ``curve_points`` points on the curve of epsilon; takes seconds.

    Raises ``ConfigError``, in terms of the command's options, for what is out of range, contradictory or unaffordable.
    """
    config = config_of(request)
    try:
        stage = statistics_stage(config.stage_one, request.code_values) if request.statistics_share else None
        plan = make_plan(config, request.clients, request.code_values, stage, budget=request.rounds_within)
        participations = participation_limit(plan, plan.rounds)
        messages = _messages(plan, stage, request.code_values, participations)
    except ConfigError as error:
        raise ConfigError(as_options(str(error))) from None
    schedule = config.evaluation.evaluated(plan.rounds)
    charges = _charges(plan, schedule, plan.rounds)
    check = compare_with_prv(plan, charges, plan.epsilon) if request.check else {"unavailable": "--no-check"}
    return Budget(
        request=request,
        plan=plan,
        epsilon=_by_accountant(request.accountant, plan, charges, check),
        message_noise_multiplier=messages[0][0],
        epsilon_server_view=_against_server(plan, messages),
        participations=participations,
        cross_check=check,
        curve=_curve(plan, schedule, curve_points),
    )


def to_json(request: BudgetRequest) -> str:
    """The answer as JSON, with up to 1,000 rounds of the curve: infinities are the text "inf", as in report.json."""
    budget = solve(request, curve_points=_CURVE_POINTS)
    plan = budget.plan
    answer = {
        "solved": request.solved,
        "epsilon": budget.epsilon,
        "accountant": request.accountant,
        "is_guarantee": request.accountant == "pld",
        "epsilon_guaranteed": plan.epsilon,
        "not_private_because": why_infinite(plan.reason, plan.epsilon),
        "noise_multiplier": plan.round.noise_multiplier,
        "statistics_noise_multiplier": plan.stage_one.noise_multiplier if plan.stage_one else None,
        "evaluations": plan.evaluations,
        "evaluation_noise_multiplier": plan.evaluation.noise_multiplier if plan.evaluation else None,
        "evaluation_errors": dict(zip(("loss", "accuracy"), plan.score_noise, strict=True)),
        "rounds": plan.rounds,
        "epsilon_server_view": budget.epsilon_server_view,
        "message_noise_multiplier": budget.message_noise_multiplier,
        "participations": budget.participations,
        "cross_check": budget.cross_check,
        "delta": plan.delta,
        "delta_set_aside": plan.slack,
        "adjacency": ADJACENCY,
        "trust": request.trust,
        "clients": plan.clients,
        "sampling_rate": request.sampling_rate,
        "charged_sampling_rate": plan.round.sampling_rate,
        "noise_shares": plan.shares,
        "colluders": request.colluders,
        "dropouts": request.dropouts,
        "curve": [{"round": number, "epsilon": value} for number, value in budget.curve],
    }
    return json.dumps(finite(answer), indent=2, allow_nan=False)


def to_text(request: BudgetRequest) -> str:
    """The answer for people."""
    budget = solve(request, curve_points=_TABLE_POINTS)
    plan = budget.plan
    stage_one = f"{show_multiplier(plan.stage_one.noise_multiplier, 4)} (stage 1)" if plan.stage_one else "no stage 1"
    beyond = " (the search ends here)" if request.solved == "rounds" and plan.rounds == LARGEST_ROUNDS else ""
    lines = [
        f"solved for {request.solved.replace('_', ' ')}",
        f"  noise multiplier            {show_multiplier(plan.round.noise_multiplier, 4)} (stage 2), {stage_one}",
        *_evaluation_line(budget),
        f"  noise of one message        {show_multiplier(budget.message_noise_multiplier, 4)} by itself: "
        f"{_faced(request)}",
        f"  rounds                      {plan.rounds:,}{beyond}",
        f"  epsilon, released model     {_model_figure(budget)}",
        f"  epsilon, client v. server   {show(budget.epsilon_server_view)}{_server_terms(budget)}",
        f"  cross-check                 {cross_check_sentence(budget.cross_check)}",
        f"  delta                       {show_delta(plan.delta)}, of which {plan.slack:.2g} is set aside for "
        "approximations",
        f"  adjacency                   {ADJACENCY}",
        f"  trust                       {request.trust}, {count(plan.clients, 'client')}, {_sampling(budget)}",
        "",
        "  after round  epsilon (by PLD, the guarantee)",
        *(f"  {number:>11,}  {show(value)}" for number, value in budget.curve),
    ]
    return "\n".join(lines)


def _evaluation_line(budget: Budget) -> list[str]:
    plan = budget.plan
    if plan.evaluation is None:
        return []
    loss, accuracy = plan.score_noise
    return [
        f"  private evaluations         {plan.evaluations}, noise "
        f"{show_multiplier(plan.evaluation.noise_multiplier, 4)}: each accuracy ± {100 * accuracy:.1f} points, "
        f"each loss ± {loss:.3f} nats (clipped at {LOSS_BOUND:g})"
    ]


def _charges(plan: PrivacyPlan, schedule: Sequence[int], rounds: int) -> list[Charge]:
    """Of stage 1, of so many rounds, and of the private evaluations until then; ``schedule``: after which rounds."""
    scores = sum(number <= rounds for number in schedule)
    evaluated = [replace(plan.evaluation, count=scores)] if plan.evaluation else []
    return [*([plan.stage_one] if plan.stage_one else []), *evaluated, replace(plan.round, count=rounds)]


def _by_accountant(name: Accountant, plan: PrivacyPlan, charges: Sequence[Charge], check: dict[str, Any]) -> float:
    """Epsilon by the named accountant; only PLD's is a guarantee."""
    if name == "pld":
        return plan.epsilon
    if name != "prv":
        try:
            return epsilon(charges, plan.delta - plan.slack, name)
        except ValueError as error:
            raise ConfigError(f"--accountant {name}: {error}") from None
    if "unavailable" in check:
        raise ConfigError(f"--accountant prv: {check['unavailable']}; use pld")
    return float(check["upper"])


def _messages(plan: PrivacyPlan, stage: StageOne | None, size: int, participations: int) -> list[tuple[float, int]]:
    """Noise multipliers of one message by itself, and how many: of stage 2, of stage 1, of private evaluations."""
    found = [(plan.round_terms(size), participations)]
    if stage:
        found.append((plan.stage_one_terms(stage), 1))
    if plan.evaluation_terms:
        found.append((plan.evaluation_terms, plan.evaluations))
    return [(message_charge(terms).noise_multiplier, count) for terms, count in found]


def _against_server(plan: PrivacyPlan, messages: Sequence[tuple[float, int]]) -> float:
    """Epsilon of one client's messages against the server, as a run would report it."""
    return plan.epsilon if plan.trust == "secure" else epsilon_of_messages(plan, messages)


def _curve(plan: PrivacyPlan, schedule: Sequence[int], points: int) -> list[tuple[int, float]]:
    """Epsilon after each round, or after ``points`` rounds spread over the run; the last is the certified figure."""
    numbers = _spread(plan.rounds, points)
    exact = all(charge.sampling_rate == 1 for charge in _charges(plan, schedule, 1))  # in closed form, so at no cost
    earlier = numbers[:-1]
    values = (_exact_values if exact else _running_values)(plan, schedule, earlier)
    capped = [min(provable(value), plan.epsilon) for value in values]
    return [*zip(earlier, capped, strict=True), (plan.rounds, plan.epsilon)]


def _exact_values(plan: PrivacyPlan, schedule: Sequence[int], numbers: Sequence[int]) -> list[float]:
    return [epsilon(_charges(plan, schedule, number), plan.delta - plan.slack) for number in numbers]


def _running_values(plan: PrivacyPlan, schedule: Sequence[int], numbers: Sequence[int]) -> list[float]:
    running = RunningAccountant(plan.delta, plan.slack)
    if plan.stage_one:
        running.charge(plan.stage_one)
    values = []
    for before, number in pairwise([-1, *numbers]):
        running.charge(replace(plan.round, count=number - max(before, 0)))
        scores = sum(before < evaluated <= number for evaluated in schedule)
        if plan.evaluation and scores:
            running.charge(replace(plan.evaluation, count=scores))
        values.append(running.epsilon())
    return values


def _spread(count: int, points: int) -> list[int]:
    """At most ``points`` of 1..count, evenly spread, both ends among them."""
    if count <= points:
        return list(range(1, count + 1))
    return [1 + round(index * (count - 1) / (points - 1)) for index in range(points)]


def _model_figure(budget: Budget) -> str:
    plan, name = budget.plan, budget.request.accountant
    reason = why_infinite(plan.reason, plan.epsilon)
    assumed = assumptions(plan)
    guarantee = f"{show(plan.epsilon)} by PLD ({reason or assumed})"
    if name == "pld":
        return guarantee
    return f"{show(budget.epsilon)} by {name.upper()}: comparison, not a guarantee (that is {guarantee})"


def _server_terms(budget: Budget) -> str:
    because = budget.plan.why_infinite_to_server(budget.epsilon_server_view)
    if because:
        return f" (nothing is claimed: {because})"
    if budget.plan.trust == "secure":
        return " (the server sees sums only, under the same assumptions)"
    return f" (asked in at most {count(budget.participations, 'round')}; no amplification)"


def _faced(request: BudgetRequest) -> str:
    return "masked, so nobody faces it alone" if request.trust == "secure" else "all that the server faces"


def _sampling(budget: Budget) -> str:
    asked, charged = budget.request.sampling_rate, budget.plan.round.sampling_rate
    amplified = "" if asked == charged else f", charged as {charged:g} (no amplification)"
    return f"sampling rate {asked:g}{amplified}"
