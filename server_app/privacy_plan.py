"""From the configuration to a plan of charges: the noise of both stages and how many rounds the budget buys."""

import math
from dataclasses import dataclass

from common.config import ConfigError, PrivacyConfig, RunConfig
from common.privacy.accounting import Charge, calibrate, check_delta, default_delta, epsilon, max_rounds
from common.privacy.mechanism import SLACK_EPSILON, ReleaseTerms, noise_slack
from common.privacy.sampling import binomial_limit

_TAIL_SHARE = 1e-3  # of delta, for a cohort larger than the public number of noise shares


@dataclass(frozen=True)
class PrivacyPlan:
    """What the run will charge, fixed before it starts.

    Attributes:
        clients: enrolled clients M.
        delta: delta of the guarantee.
        slack: part of delta that is set aside for sampling and rounding approximations.
        shares: public number of noise shares of a round, which no cohort exceeds but with a probability in ``slack``.
        statistics_shares: the same for stage 1.
        statistics: the charge of stage 1 (noise 0 when it is sent in the clear); ``None`` when there is no stage 1.
        round: the charge of one round of stage 2; noise 0 when nothing is private.
        rounds: rounds that the budget affords.
        epsilon: end-to-end epsilon of the released model after ``rounds``; inf when any stage is not private.
        reason: why epsilon is inf, else ``""``.
        expected_cohort: p M, the fixed public denominator of a round.

    """

    clients: int
    delta: float
    slack: float
    shares: int
    statistics_shares: int
    statistics: Charge | None
    round: Charge
    rounds: int
    epsilon: float
    reason: str
    expected_cohort: float


def make_plan(config: RunConfig, clients: int, code_size: int, statistics_size: int) -> PrivacyPlan:
    """Solve the noise of a run with ``clients`` enrolled; ``statistics_size`` is 0 without a stage 1.

    Raises ``ConfigError`` when delta is not below 1/M or the budget affords nothing.
    """
    privacy = config.privacy
    delta = _delta(privacy, clients)
    tail = _TAIL_SHARE * delta
    shares = binomial_limit(clients, privacy.sampling_rate, config.num_server_rounds, tail)
    statistics_shares = binomial_limit(clients, config.statistics.sampling_rate, 1, tail)
    slack = _slack(config, delta, shares, statistics_shares, code_size, statistics_size)
    statistics = _statistics_charge(config, delta, slack) if statistics_size else None
    before = (statistics,) if statistics and statistics.noise_multiplier else ()
    noise = _noise(config, delta, slack, before) if privacy.is_private else 0.0
    per_round = Charge(noise, amplified_rate(privacy), label="stage 2: gradient")
    rounds = _affordable(config, delta, slack, per_round, before)
    reason = _why_not_private(config, statistics)
    total = math.inf if reason else provable(epsilon((*before, _times(per_round, rounds)), delta - slack))
    return PrivacyPlan(
        clients=clients,
        delta=delta,
        slack=slack,
        shares=shares,
        statistics_shares=statistics_shares,
        statistics=statistics,
        round=per_round,
        rounds=rounds,
        epsilon=total,
        reason=reason,
        expected_cohort=privacy.sampling_rate * clients,
    )


def provable(value: float) -> float:
    """An epsilon beyond what the bounds on the discrete noise were computed for is not claimed: it is inf."""
    return value if value <= SLACK_EPSILON else math.inf


def _why_not_private(config: RunConfig, statistics: Charge | None) -> str:
    """Why no finite epsilon can be stated end to end; ``""`` when one can."""
    if not config.privacy.is_private:
        return "privacy.epsilon = inf: no noise is added"
    if config.privacy.insecure_seed >= 0:
        return "privacy.insecure-seed makes the noise and the cohorts reproducible"
    if statistics and not statistics.noise_multiplier:
        return "statistics.private = false: stage 1 sends gradient statistics without noise"
    return ""


def _times(charge: Charge, count: int) -> Charge:
    return Charge(charge.noise_multiplier, charge.sampling_rate, count, charge.label)


def _delta(privacy: PrivacyConfig, clients: int) -> float:
    delta = privacy.delta or default_delta(clients)
    try:
        check_delta(delta, clients)
    except ValueError as error:
        raise ConfigError(f"privacy.delta = {delta:g}: {error}") from error
    return delta


def _slack(
    config: RunConfig, delta: float, shares: int, statistics_shares: int, code_size: int, statistics_size: int
) -> float:
    """Delta set aside: cohorts beyond the public number of shares, and discrete noise charged as Gaussian."""
    if not config.privacy.is_private:
        return 0.0
    # the approximation depends on z only through the grid, which keeps noise/step fixed: z = 1 stands for all
    rounds = config.num_server_rounds * noise_slack(stage_two_terms(config.privacy, code_size, 1.0, shares))
    if not statistics_size:
        return _TAIL_SHARE * delta + rounds
    stage_one = noise_slack(stage_two_terms(config.privacy, statistics_size, 1.0, statistics_shares))
    return 2 * _TAIL_SHARE * delta + rounds + stage_one


def amplified_rate(privacy: PrivacyConfig, rate: float | None = None) -> float:
    """The sampling rate that may be charged: 1 in ``local``, where the noise of a sum depends on the cohort.

    Without a fixed noise on the sum there is no amplification by sampling; see ``common.privacy.mechanism``.
    """
    return 1.0 if privacy.trust == "local" else rate or privacy.sampling_rate


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


def _statistics_charge(config: RunConfig, delta: float, slack: float) -> Charge:
    rate = amplified_rate(config.privacy, config.statistics.sampling_rate)
    if not (config.statistics.private and config.privacy.is_private):
        noise = 0.0
    elif config.privacy.epsilon > 0:
        share = config.privacy.epsilon * config.privacy.statistics_share
        noise = _calibrate(config, share, delta, sampling_rate=rate, rounds=1, slack=slack)
    else:
        noise = 2.0 * config.privacy.noise_multiplier
    return Charge(noise, rate, label="stage 1: statistics")


def _noise(config: RunConfig, delta: float, slack: float, before: tuple[Charge, ...]) -> float:
    privacy = config.privacy
    if privacy.noise_multiplier > 0:
        return privacy.noise_multiplier
    return _calibrate(
        config,
        privacy.epsilon,
        delta,
        sampling_rate=amplified_rate(privacy),
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
        return calibrate(budget, delta, sampling_rate=sampling_rate, rounds=rounds, before=before, slack=slack)
    except ValueError as error:
        raise ConfigError(
            f"privacy.epsilon = {config.privacy.epsilon:g}: {error}; raise it, or run fewer rounds"
        ) from error


def _affordable(config: RunConfig, delta: float, slack: float, per_round: Charge, before: tuple[Charge, ...]) -> int:
    stop = config.privacy.stop_epsilon
    if not stop or not config.privacy.is_private:
        return config.num_server_rounds
    affordable = max_rounds(
        stop,
        delta,
        noise_multiplier=per_round.noise_multiplier,
        sampling_rate=per_round.sampling_rate,
        limit=config.num_server_rounds,
        before=before,
        slack=slack,
    )
    if affordable == 0:
        raise ConfigError(
            f"privacy.stop-epsilon = {stop}: not even one round fits (stage 1 included); raise it, or the noise"
        )
    return affordable
