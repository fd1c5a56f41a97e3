"""From the configuration to a plan of charges: the noise of both stages and how many rounds the budget buys."""

import math
from dataclasses import dataclass, replace
from functools import lru_cache

from common.config import ConfigError, PrivacyConfig, RunConfig
from common.privacy.accounting import Charge, calibrate, check_delta, default_delta, epsilon, max_rounds
from common.privacy.mechanism import MAX_SHARES, ReleaseTerms
from common.privacy.price import SLACK_EPSILON, noise_slack, outsider_charge
from common.score_code import score_errors
from server_app.privacy.sampling import binomial_limit
from server_app.privacy.scores import EVALUATION, score_slack, score_terms
from server_app.privacy.shares import check_secure, noise_against, shares_not_counted
from server_app.privacy.stage_one import StageOne

_solved = lru_cache(maxsize=64)(calibrate)  # seconds each, and many runs of a comparison share a plan
_TAIL_SHARE = 1e-3  # of delta, for a cohort larger than the public number of noise shares


@dataclass(frozen=True)
class PrivacyPlan:
    """What the run will charge, fixed before it starts.

    Attributes:
        clients: enrolled clients M.
        trust: ``privacy.trust``.
        delta: delta of the guarantee.
        slack: part of delta that is set aside for sampling and rounding approximations.
        shares: public number of noise shares of a round, which no cohort exceeds but with a probability in ``slack``.
        stage_one_shares: the same for stage 1.
        stage_one: the charge of stage 1 (noise 0 when it is sent in the clear); ``None`` when there is no stage 1.
        round: the charge of one round of stage 2; noise 0 when nothing is private.
        evaluation: the charge of one private evaluation, of which there are ``evaluations``; ``None`` without any.
            All clients are asked, so it has no sampling rate and as many noise shares as there are clients.
        rounds: rounds that the plan pays for.
        epsilon: end-to-end epsilon of the released model after ``rounds``; inf when any stage is not private.
        reason: why epsilon is inf, else ``""``.
        expected_cohort: p M, the fixed public denominator of a round.

    """

    clients: int
    trust: str
    delta: float
    slack: float
    shares: int
    stage_one_shares: int
    stage_one: Charge | None
    round: Charge
    rounds: int
    epsilon: float
    reason: str
    expected_cohort: float
    evaluation: Charge | None = None
    evaluations: int = 0

    @property
    def besides(self) -> tuple[Charge, ...]:
        """The charges of stage 1 and of all private evaluations."""
        scores = self.evaluation and replace(self.evaluation, count=self.evaluations)
        return tuple(charge for charge in (self.stage_one, scores) if charge)

    @property
    def noisy_stage_one(self) -> bool:
        """Whether there is a stage 1 that releases with noise."""
        return self.stage_one is not None and self.stage_one.noise_multiplier > 0


def make_plan(
    config: RunConfig,
    clients: int,
    code_size: int,
    stage: StageOne | None,
    *,
    budget: float = 0.0,
) -> PrivacyPlan:
    """Solve the noise of a run with ``clients`` enrolled; ``stage`` is ``None`` without a stage 1.

    ``budget``: an epsilon that may leave fewer rounds than the configuration has, where its noise is given; 0: none.

    Raises ``ConfigError`` when delta is not below 1/M or the budget affords nothing.
    """
    privacy = config.privacy
    delta = _delta(privacy, clients)
    tail = _TAIL_SHARE * delta
    check_secure(privacy, clients, stage)
    secure = privacy.trust == "secure"  # every client adds a share to every sum
    shares = clients if secure else binomial_limit(clients, privacy.sampling_rate, config.num_server_rounds, tail)
    stage_one_shares = (clients if secure else binomial_limit(clients, stage.sampling_rate, 1, tail)) if stage else 0
    _check_shares(privacy, clients, shares)
    if stage:
        _check_shares(privacy, clients, stage_one_shares, noisy=stage.private)
    evaluations = len(config.evaluation.evaluated(config.num_server_rounds)) if config.evaluation.private else 0
    if evaluations:
        _check_shares(privacy, clients, clients)
    slack = _slack(config, delta, shares, stage_one_shares, code_size, stage.size if stage else 0)
    slack += evaluations * score_slack(privacy, clients)
    if slack >= delta:
        raise ConfigError(
            f"privacy.delta = {delta:g}: {slack:.2g} would have to be set aside for discrete noise on codes of "
            f"{code_size:,} values over {config.num_server_rounds:,} rounds; raise it, or make the codes smaller"
        )
    stage_one = _stage_one_charge(config, stage, delta, slack) if stage else None
    before = (stage_one,) if stage_one and stage_one.noise_multiplier else ()
    unit = _unit_charge(privacy, privacy.sampling_rate, "stage 2: gradient")
    evaluation = _evaluation_charge(config, evaluations, delta, slack, unit, before) if evaluations else None
    if evaluation and evaluation.noise_multiplier:
        before = (*before, replace(evaluation, count=evaluations))
    noise = _noise(config, delta, slack, unit, before) if privacy.is_private else 0.0
    per_round = replace(unit, noise_multiplier=noise)
    rounds = _affordable(config, budget, delta, slack, per_round, before)
    reason = _why_not_private(config, stage)
    total = math.inf if reason else provable(epsilon((*before, replace(per_round, count=rounds)), delta - slack))
    return PrivacyPlan(
        clients=clients,
        trust=privacy.trust,
        delta=delta,
        slack=slack,
        shares=shares,
        stage_one_shares=stage_one_shares,
        stage_one=stage_one,
        round=per_round,
        rounds=rounds,
        epsilon=total,
        reason=reason,
        expected_cohort=privacy.sampling_rate * clients,
        evaluation=evaluation,
        evaluations=evaluations,
    )


def round_terms(privacy: PrivacyConfig, plan: PrivacyPlan, code_size: int) -> ReleaseTerms:
    """Release terms of a round of stage 2 as planned."""
    noise = noise_against(shares_not_counted(privacy, plan.clients), plan.round.noise_multiplier, plan.shares)
    return stage_two_terms(privacy, code_size, noise, plan.shares)


def mean_noise(privacy: PrivacyConfig, plan: PrivacyPlan, code_size: int) -> float:
    """Std, over the clip norm, of the noise on the mean of an expected cohort's codes of ``code_size`` values.

    z/K in ``central``; more with the shares against colluders, or drop-outs; z/√K in ``local``, where every client adds
    all of it.
    """
    terms = round_terms(privacy, plan, code_size)
    adding = plan.clients if plan.trust == "secure" else round(plan.expected_cohort)
    return terms.total_std(adding) / (plan.expected_cohort * terms.clip_norm)


def stage_one_terms(config: RunConfig, plan: PrivacyPlan, stage: StageOne) -> ReleaseTerms:
    """Release terms of stage 1 as planned; noise 0 when it sends in the clear."""
    charged = plan.stage_one.noise_multiplier if plan.stage_one else 0.0
    noise = noise_against(shares_not_counted(config.privacy, plan.clients), charged, plan.stage_one_shares)
    return ReleaseTerms(
        size=stage.size if noise else stage.open_size,
        clip_norm=stage.clip_norm,
        noise_multiplier=noise,
        trust=config.privacy.trust,
        shares=plan.stage_one_shares,
        normalize=False,
    )


def evaluation_terms(config: RunConfig, plan: PrivacyPlan) -> ReleaseTerms | None:
    """Release terms of a private evaluation as planned; ``None`` without any."""
    charge = plan.evaluation
    return score_terms(config.privacy, plan.clients, charge.noise_multiplier) if charge else None


def score_noise(config: RunConfig, plan: PrivacyPlan) -> tuple[float, float]:
    """Std of the noise on loss (nats per token) and accuracy (0..1) of a private evaluation, if everybody answers."""
    terms = evaluation_terms(config, plan)
    return score_errors(terms.total_std(plan.clients) / plan.clients) if terms else (0.0, 0.0)


def provable(value: float) -> float:
    """An epsilon beyond what the bounds on the discrete noise were computed for is not claimed: it is inf."""
    return value if value <= SLACK_EPSILON else math.inf


def why_infinite(reason: str, epsilon: float) -> str:
    """Why ``epsilon`` is inf: the plan's ``reason``, or that it is too large to be claimed; ``""`` when it is not."""
    return reason or (f"epsilon is above {SLACK_EPSILON:g}" if math.isinf(epsilon) else "")


def why_infinite_to_server(plan: PrivacyPlan, trust: str, epsilon: float) -> str:
    """Why no ``epsilon`` is claimed for one client against the server; ``""`` when one is."""
    if not plan.reason and trust == "central":
        return "the server is trusted with single messages, which carry no noise of their own"
    return why_infinite(plan.reason, epsilon)


def _why_not_private(config: RunConfig, stage: StageOne | None) -> str:
    """Why no finite epsilon can be stated end to end; ``""`` when one can."""
    if not config.privacy.is_private:
        return "privacy.epsilon = inf: no noise is added"
    return stage.reason if stage and not stage.private else ""


def _delta(privacy: PrivacyConfig, clients: int) -> float:
    delta = privacy.delta or default_delta(clients)
    try:
        check_delta(delta, clients)
    except ValueError as error:
        raise ConfigError(f"privacy.delta = {delta:g}: {error}") from error
    return delta


def _check_shares(privacy: PrivacyConfig, clients: int, shares: int, *, noisy: bool = True) -> None:
    """Before seconds go into solving for the noise: shares that can be added, and more of them than colluders."""
    if shares > MAX_SHARES:
        raise ConfigError(
            f"federation.num-clients = {clients:,}: a cohort of theirs may need {shares:,} noise shares, and "
            f"{MAX_SHARES:,} are the most; enroll fewer, or ask fewer at a time"
        )
    if privacy.is_private and noisy:
        noise_against(shares_not_counted(privacy, clients), 1.0, shares)


def _slack(
    config: RunConfig, delta: float, shares: int, stage_one_shares: int, code_size: int, stage_one_size: int
) -> float:
    """Delta set aside: cohorts beyond the public number of shares, and discrete noise charged as Gaussian."""
    if not config.privacy.is_private:
        return 0.0
    # the approximation depends on z only through the grid, which keeps noise/step fixed: z = 1 stands for all
    rounds = config.num_server_rounds * noise_slack(stage_two_terms(config.privacy, code_size, 1.0, shares))
    if config.privacy.trust == "secure":  # no cohort exceeds the shares
        first = noise_slack(stage_two_terms(config.privacy, stage_one_size, 1.0, shares)) if stage_one_size else 0.0
        return rounds + first
    if not stage_one_size:
        return _TAIL_SHARE * delta + rounds
    stage_one = noise_slack(stage_two_terms(config.privacy, stage_one_size, 1.0, stage_one_shares))
    return 2 * _TAIL_SHARE * delta + rounds + stage_one


def _unit_charge(privacy: PrivacyConfig, rate: float, label: str) -> Charge:
    """The charge of a release of noise multiplier 1: only its noise is left to solve for."""
    return outsider_charge(stage_two_terms(privacy, 1, 1.0, 1), rate, label)


def clients_asked(config: RunConfig, plan: PrivacyPlan) -> float:
    """Clients that a round is expected to ask: p M, or with cover traffic and in ``secure`` all M."""
    return float(plan.clients) if config.federation.cover or plan.trust == "secure" else plan.expected_cohort


def stage_two_terms(privacy: PrivacyConfig, code_size: int, noise_multiplier: float, shares: int) -> ReleaseTerms:
    """Release terms of a round with ``shares`` noise shares."""
    return ReleaseTerms(
        size=code_size,
        clip_norm=privacy.clip_norm,
        noise_multiplier=noise_multiplier,
        trust=privacy.trust,
        shares=shares,
        normalize=privacy.clipping == "normalize",
    )


def _stage_one_charge(config: RunConfig, stage: StageOne, delta: float, slack: float) -> Charge:
    unit = _unit_charge(config.privacy, stage.sampling_rate, stage.label)
    if not (stage.private and config.privacy.is_private):
        noise = 0.0
    elif config.privacy.epsilon > 0:
        share = config.privacy.epsilon * config.privacy.statistics_share
        noise = _calibrate(config, share, delta, sampling_rate=unit.sampling_rate, rounds=1, slack=slack)
    else:
        noise = 2.0 * config.privacy.noise_multiplier
    return replace(unit, noise_multiplier=noise)


def _evaluation_charge(
    config: RunConfig, count: int, delta: float, slack: float, unit: Charge, stage_one: tuple[Charge, ...]
) -> Charge:
    """One of ``count``, which cost a share of epsilon; of what the rounds come to where their noise is given."""
    privacy, noise, whole = config.privacy, 0.0, config.privacy.epsilon
    if privacy.is_private:
        if not whole:
            rounds = replace(unit, noise_multiplier=privacy.noise_multiplier, count=config.num_server_rounds)
            whole = min(epsilon((*stage_one, rounds), delta - slack), SLACK_EPSILON)
        share = whole * config.evaluation.private
        noise = _calibrate(config, share, delta, sampling_rate=1.0, rounds=count, slack=slack)
    return Charge(noise, 1.0, 1, EVALUATION)


def _noise(config: RunConfig, delta: float, slack: float, unit: Charge, before: tuple[Charge, ...]) -> float:
    privacy = config.privacy
    if privacy.noise_multiplier > 0:
        return privacy.noise_multiplier
    return _calibrate(
        config,
        privacy.epsilon,
        delta,
        sampling_rate=unit.sampling_rate,
        rounds=config.num_server_rounds,
        before=before,
        slack=slack,
    )


def _calibrate(
    config: RunConfig,
    budget: float,
    delta: float,
    *,
    sampling_rate: float,
    rounds: int,
    before: tuple[Charge, ...] = (),
    slack: float,
) -> float:
    try:
        return _solved(budget, delta, sampling_rate=sampling_rate, rounds=rounds, before=before, slack=slack)
    except ValueError as error:
        raise ConfigError(
            f"privacy.epsilon = {config.privacy.epsilon:g}: {error}; raise it, or run fewer rounds"
        ) from error


def _affordable(
    config: RunConfig, budget: float, delta: float, slack: float, per_round: Charge, before: tuple[Charge, ...]
) -> int:
    """Rounds within ``budget``, at most the configured ones; all of them where there is no budget, or no noise."""
    if not budget or not config.privacy.is_private:
        return config.num_server_rounds
    affordable = max_rounds(
        budget,
        delta,
        noise_multiplier=per_round.noise_multiplier,
        sampling_rate=per_round.sampling_rate,
        limit=config.num_server_rounds,
        before=before,
        slack=slack,
    )
    if affordable == 0:
        raise ConfigError(
            f"privacy.epsilon = {budget}: not even one round fits (stage 1 included); raise it, or the noise"
        )
    return affordable
