"""Plan a privacy budget without a run: of epsilon, noise and rounds, two are given and the third is solved.

The plan is ``make_plan``'s own, so a run with the same settings charges the same. Every epsilon is at delta less what
a run sets aside for cohorts beyond the noise shares and for discrete noise (a thousandth for each stage).
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

from common.config import ConfigError, RunConfig, Scalar
from common.privacy.accounting import Charge, RunningAccountant, epsilon
from common.privacy.mechanism import SLACK_EPSILON, Trust, message_charge
from server_app.privacy_account import (
    assumptions,
    compare_with_prv,
    cross_check_sentence,
    epsilon_of_messages,
    participation_limit,
)
from server_app.privacy_plan import (
    PrivacyPlan,
    colluders_counted,
    make_plan,
    noise_against,
    provable,
    round_terms,
    stage_two_terms,
    statistics_stage,
    why_infinite,
    why_infinite_to_server,
)
from server_app.terminal import show

Accountant = Literal["pld", "prv", "rdp", "gdp"]

ADJACENCY = "zero-out: one client's whole contribution replaced by zero"
MAX_ROUNDS = 100_000
"""The search for rounds ends here."""
_CURVE_POINTS, _TABLE_POINTS = 1000, 10
_OPTIONS = {
    "privacy.statistics-share": "--statistics-share",
    "statistics.sampling-rate": "--statistics-rate",
    "privacy.sampling-rate": "--sampling-rate",
    "privacy.noise-multiplier": "--noise-multiplier",
    "privacy.stop-epsilon": "--epsilon",
    "privacy.epsilon": "--epsilon",
    "privacy.delta": "--delta",
    "privacy.trust": "--trust",
    "privacy.colluders": "--colluders",
    "num-server-rounds": "--rounds",
    "The run configuration is": "The options are",
}


@dataclass(frozen=True)
class Question:
    """What is given: two of ``epsilon``, ``noise_multiplier`` (over the clip norm) and ``rounds``, and the terms.

    ``delta``: ``None`` for 1/(10 M). ``statistics_share``: part of epsilon for stage 1; 0: no stage 1. Where the noise
    is given, stage 1 has twice that noise, as in a run. ``statistics_rate``: ``None`` for ``sampling_rate``.
    ``code_values``: of either stage; they move nothing but the part of delta that is set aside for discrete noise.
    ``colluders``: clients that pool their noise shares; the others then add more. ``check``: ask PRV, for seconds.
    """

    clients: int
    sampling_rate: float
    delta: float | None = None
    epsilon: float | None = None
    noise_multiplier: float | None = None
    rounds: int | None = None
    statistics_share: float = 0.0
    statistics_rate: float | None = None
    trust: Trust = "distributed"
    accountant: Accountant = "pld"
    code_values: int = 256
    colluders: int = 1
    check: bool = True

    @property
    def solved(self) -> str:
        """The one that is not given."""
        return next(name for name in ("epsilon", "noise_multiplier", "rounds") if getattr(self, name) is None)


@dataclass(frozen=True)
class Budget:
    """The answer: ``plan`` with its charges, and every figure that a report would state.

    ``epsilon``: of the released model by the accountant that was asked for; ``plan.epsilon`` is the guarantee.
    ``message_noise_multiplier``: of one message of a round by itself.
    ``epsilon_server_view``: of one client against the server. ``curve``: (rounds, epsilon) by PLD, an upper bound.
    """

    question: Question
    plan: PrivacyPlan
    epsilon: float
    message_noise_multiplier: float
    epsilon_server_view: float
    participations: int
    cross_check: dict[str, Any]
    curve: list[tuple[int, float]]


def solve(question: Question, *, curve_points: int) -> Budget:
    """Answer ``question``, with at most ``curve_points`` points on the curve of epsilon; takes seconds.

    Raises ``ConfigError``, in terms of the command's options, for what is out of range, contradictory or unaffordable.
    """
    _check(question)
    try:
        config = _config(question)
        stage = statistics_stage(config, question.code_values) if question.statistics_share else None
        plan = make_plan(config, question.clients, question.code_values, stage)
        participations = participation_limit(plan, plan.rounds)
        messages = _messages(question, config, plan)
    except ConfigError as error:
        raise ConfigError(_as_options(str(error))) from None
    charges = _charges(plan, plan.rounds)
    check = compare_with_prv(plan, charges, plan.epsilon) if question.check else {"unavailable": "--no-check"}
    return Budget(
        question=question,
        plan=plan,
        epsilon=_by_accountant(question.accountant, plan, charges, check),
        message_noise_multiplier=messages[0],
        epsilon_server_view=_against_server(plan, messages, participations),
        participations=participations,
        cross_check=check,
        curve=_curve(plan, curve_points),
    )


def to_json(question: Question) -> str:
    """The answer as JSON, with up to 1,000 rounds of the curve: infinities are the text "inf", as in report.json."""
    budget = solve(question, curve_points=_CURVE_POINTS)
    plan = budget.plan
    answer = {
        "solved": question.solved,
        "epsilon": _number(budget.epsilon),
        "accountant": question.accountant,
        "is_guarantee": question.accountant == "pld",
        "epsilon_guaranteed": _number(plan.epsilon),
        "not_private_because": why_infinite(plan.reason, plan.epsilon),
        "noise_multiplier": plan.round.noise_multiplier,
        "statistics_noise_multiplier": plan.statistics.noise_multiplier if plan.statistics else None,
        "rounds": plan.rounds,
        "epsilon_server_view": _number(budget.epsilon_server_view),
        "message_noise_multiplier": budget.message_noise_multiplier,
        "participations": budget.participations,
        "cross_check": budget.cross_check,
        "delta": plan.delta,
        "delta_set_aside": plan.slack,
        "adjacency": ADJACENCY,
        "trust": question.trust,
        "clients": plan.clients,
        "sampling_rate": question.sampling_rate,
        "charged_sampling_rate": plan.round.sampling_rate,
        "noise_shares": plan.shares,
        "colluders": question.colluders,
        "curve": [{"round": number, "epsilon": _number(value)} for number, value in budget.curve],
    }
    return json.dumps(answer, indent=2, allow_nan=False)


def to_text(question: Question) -> str:
    """The answer for people."""
    budget = solve(question, curve_points=_TABLE_POINTS)
    plan = budget.plan
    stage_one = f"{plan.statistics.noise_multiplier:.4f} (stage 1)" if plan.statistics else "no stage 1"
    beyond = " (the search ends here)" if question.solved == "rounds" and plan.rounds == MAX_ROUNDS else ""
    lines = [
        f"solved for {question.solved.replace('_', ' ')}",
        f"  noise multiplier            {plan.round.noise_multiplier:.4f} (stage 2), {stage_one}",
        f"  noise of one message        {budget.message_noise_multiplier:.4f} by itself: all that the server faces",
        f"  rounds                      {plan.rounds:,}{beyond}",
        f"  epsilon, released model     {_model_figure(budget)}",
        f"  epsilon, client v. server   {show(budget.epsilon_server_view)}{_server_terms(budget)}",
        f"  cross-check                 {cross_check_sentence(budget.cross_check)}",
        f"  delta                       {plan.delta:g}, of which {plan.slack:.2g} is set aside for approximations",
        f"  adjacency                   {ADJACENCY}",
        f"  trust                       {question.trust}, {plan.clients:,} clients, {_sampling(budget)}",
        "",
        "  after round  epsilon",
        *(f"  {number:>11,}  {show(value)}" for number, value in budget.curve),
    ]
    return "\n".join(lines)


def _check(question: Question) -> None:
    given = {
        "--epsilon": question.epsilon,
        "--noise-multiplier": question.noise_multiplier,
        "--rounds": question.rounds,
    }
    named = [f"{option} {value:g}" for option, value in given.items() if value is not None]
    if len(named) != 2:
        raise ConfigError(f"give two of {', '.join(given)}, not {', '.join(named) or 'none'}: the third is solved")
    for option, value in (given | {"--delta": question.delta}).items():
        if value is not None and not 0 < value < math.inf:
            raise ConfigError(f"{option} = {value:g}: must be above 0 and finite")
    if question.statistics_rate is not None and not question.statistics_share:
        raise ConfigError(f"--statistics-rate = {question.statistics_rate:g}: give --statistics-share too, say 0.1")
    if question.epsilon and question.epsilon > SLACK_EPSILON:
        raise ConfigError(f"--epsilon = {question.epsilon:g}: nothing above {SLACK_EPSILON:g} is claimed; ask for less")
    if question.accountant == "prv" and not question.check:
        raise ConfigError("--accountant prv with --no-check: PRV is the check; leave one of them out")


def _config(question: Question) -> RunConfig:
    """The configuration of a run of these terms."""
    by_noise = question.noise_multiplier is not None
    flat: dict[str, Scalar] = {
        "num-server-rounds": question.rounds or MAX_ROUNDS,
        "privacy.epsilon": 0.0 if by_noise else question.epsilon or 0.0,
        "privacy.noise-multiplier": question.noise_multiplier or 0.0,
        "privacy.stop-epsilon": (question.epsilon or 0.0) if by_noise else 0.0,
        "privacy.delta": question.delta or 0.0,
        "privacy.trust": question.trust,
        "privacy.colluders": question.colluders,
        "privacy.sampling-rate": question.sampling_rate,
    }
    if question.statistics_share:
        rate = question.statistics_rate
        flat["privacy.statistics-share"] = question.statistics_share
        flat["statistics.sampling-rate"] = question.sampling_rate if rate is None else rate
    return RunConfig.parse(flat)


def _as_options(text: str) -> str:
    for key, option in _OPTIONS.items():
        text = text.replace(key, option)
    return text


def _charges(plan: PrivacyPlan, rounds: int) -> list[Charge]:
    stage_two = replace(plan.round, count=rounds)
    return [plan.statistics, stage_two] if plan.statistics else [stage_two]


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


def _messages(question: Question, config: RunConfig, plan: PrivacyPlan) -> tuple[float, ...]:
    """The noise multiplier of one message by itself: of stage 2, and of stage 1 where there is one."""
    rounds = message_charge(round_terms(config.privacy, plan, question.code_values)).noise_multiplier
    if not plan.statistics:
        return (rounds,)
    shares = plan.statistics_shares
    counted = colluders_counted(config.privacy, plan.clients)
    noise = noise_against(counted, plan.statistics.noise_multiplier, shares)
    first = message_charge(stage_two_terms(config.privacy, question.code_values, noise, shares))
    return rounds, first.noise_multiplier


def _against_server(plan: PrivacyPlan, messages: Sequence[float], participations: int) -> float:
    """Epsilon of one client's messages against the server, as a run would report it."""
    return epsilon_of_messages(plan, list(zip(messages, (participations, 1), strict=False)))


def _curve(plan: PrivacyPlan, points: int) -> list[tuple[int, float]]:
    """Epsilon after each round, or after ``points`` rounds spread over the run; the last is the certified figure."""
    numbers = _spread(plan.rounds, points)
    exact = all(charge.sampling_rate == 1 for charge in _charges(plan, 1))  # in closed form, so at no cost
    earlier = numbers[:-1]
    values = _exact_values(plan, earlier) if exact else _running_values(plan, earlier)
    capped = [min(provable(value), plan.epsilon) for value in values]
    return [*zip(earlier, capped, strict=True), (plan.rounds, plan.epsilon)]


def _exact_values(plan: PrivacyPlan, numbers: list[int]) -> list[float]:
    return [epsilon(_charges(plan, number), plan.delta - plan.slack) for number in numbers]


def _running_values(plan: PrivacyPlan, numbers: list[int]) -> list[float]:
    running = RunningAccountant(plan.delta, plan.slack)
    if plan.statistics:
        running.charge(plan.statistics)
    values = []
    for before, number in pairwise([0, *numbers]):
        running.charge(replace(plan.round, count=number - before))
        values.append(running.epsilon())
    return values


def _spread(count: int, points: int) -> list[int]:
    """At most ``points`` of 1..count, evenly spread, both ends among them."""
    if count <= points:
        return list(range(1, count + 1))
    return [1 + round(index * (count - 1) / (points - 1)) for index in range(points)]


def _model_figure(budget: Budget) -> str:
    plan, name = budget.plan, budget.question.accountant
    reason = why_infinite(plan.reason, plan.epsilon)
    assumed = assumptions(plan, _config(budget.question).privacy)
    guarantee = f"{show(plan.epsilon)} by PLD ({reason or assumed})"
    if name == "pld":
        return guarantee
    return f"{show(budget.epsilon)} by {name.upper()}: comparison, not a guarantee (that is {guarantee})"


def _server_terms(budget: Budget) -> str:
    because = why_infinite_to_server(budget.plan, budget.question.trust, budget.epsilon_server_view)
    if because:
        return f" (nothing is claimed: {because})"
    return f" (asked in at most {budget.participations:,} rounds; no amplification)"


def _sampling(budget: Budget) -> str:
    asked, charged = budget.question.sampling_rate, budget.plan.round.sampling_rate
    amplified = "" if asked == charged else f", charged as {charged:g} (no amplification)"
    return f"sampling rate {asked:g}{amplified}"


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else "inf"
