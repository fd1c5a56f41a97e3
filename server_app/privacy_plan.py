"""From the configuration to a plan of charges: the noise of both stages and how many rounds the budget buys."""

import math
from dataclasses import dataclass

from common.config import ConfigError, PrivacyConfig, RunConfig
from common.privacy.accounting import Charge, calibrate, check_delta, default_delta, epsilon, max_rounds
from common.privacy.mechanism import ReleaseTerms, noise_slack
from common.privacy.sampling import cohort_slack, default_minimum


@dataclass(frozen=True)
class PrivacyPlan:
    """What the run will charge, fixed before it starts.

    Attributes:
        clients: enrolled clients M.
        delta: delta of the guarantee.
        slack: part of delta that is set aside for sampling and rounding approximations.
        minimum_cohort: rounds with fewer selected clients are discarded.
        statistics: the charge of stage 1; ``None`` when there is no private stage 1.
        round: the charge of one round of stage 2; ``None`` when nothing is private.
        rounds: rounds that the budget affords.
        epsilon: end-to-end epsilon of the released model after ``rounds``; inf when any stage is not private.
        reason: why epsilon is inf, else ``""``.
        expected_cohort: p M, the fixed public denominator of a round.

    """

    clients: int
    delta: float
    slack: float
    minimum_cohort: int
    statistics: Charge | None
    round: Charge | None
    rounds: int
    epsilon: float
    reason: str
    expected_cohort: float


def make_plan(config: RunConfig, clients: int, code_size: int, statistics_size: int) -> PrivacyPlan:
    """Solve the noise of a run with ``clients`` enrolled; ``statistics_size`` is 0 without a stage 1.

    Raises ``ConfigError`` when delta is not below 1/M or the budget affords nothing.
    """
    privacy = config.privacy
    delta, cohort = _delta(privacy, clients), privacy.sampling_rate * clients
    minimum = _minimum_cohort(config, clients, delta)
    if not privacy.is_private:
        reason = "privacy.epsilon = inf: no noise is added"
        rounds = config.num_server_rounds
        return PrivacyPlan(clients, delta, 0.0, minimum, None, None, rounds, math.inf, reason, cohort)
    slack = _slack(config, clients, minimum, code_size, statistics_size)
    statistics = _statistics_charge(config, delta, slack) if statistics_size else None
    before = (statistics,) if statistics else ()
    per_round = Charge(_noise(config, delta, slack, before), amplified_rate(privacy), label="stage 2: gradient")
    rounds = _affordable(config, delta, slack, per_round, before)
    charges = (*before, _times(per_round, rounds))
    if statistics_size and not config.statistics.private:
        reason = "statistics.private = false: stage 1 sends gradient statistics without noise"
        return PrivacyPlan(clients, delta, slack, minimum, None, per_round, rounds, math.inf, reason, cohort)
    total = epsilon(charges, delta - slack)
    return PrivacyPlan(clients, delta, slack, minimum, statistics, per_round, rounds, total, "", cohort)


def _times(charge: Charge, count: int) -> Charge:
    return Charge(charge.noise_multiplier, charge.sampling_rate, count, charge.label)


def _delta(privacy: PrivacyConfig, clients: int) -> float:
    delta = privacy.delta or default_delta(clients)
    try:
        check_delta(delta, clients)
    except ValueError as error:
        raise ConfigError(f"privacy.delta = {delta:g}: {error}") from error
    return delta


def _minimum_cohort(config: RunConfig, clients: int, delta: float) -> int:
    privacy, rounds = config.privacy, config.num_server_rounds
    if privacy.minimum_cohort < 0:
        return default_minimum(clients, privacy.sampling_rate, rounds, delta)
    slack = cohort_slack(clients, privacy.sampling_rate, privacy.minimum_cohort, rounds)
    if privacy.minimum_cohort > clients:
        raise ConfigError(f"privacy.minimum-cohort = {privacy.minimum_cohort}: there are only {clients} clients")
    if slack > delta / 10:
        raise ConfigError(
            f"privacy.minimum-cohort = {privacy.minimum_cohort}: discarding rounds so often reveals who was sampled "
            f"and would cost {slack:.1e} of privacy.delta = {delta:g}; allowed up to a tenth of it: lower it, or set -1"
        )
    return privacy.minimum_cohort


def _slack(config: RunConfig, clients: int, minimum: int, code_size: int, statistics_size: int) -> float:
    """Delta set aside: discarded cohorts, and the discrete noise against the Gaussian that is charged."""
    privacy, rounds = config.privacy, config.num_server_rounds
    discards = cohort_slack(clients, privacy.sampling_rate, minimum, rounds)
    # the approximation depends on z only through the grid, which keeps noise/step fixed: z = 1 stands for all
    terms = stage_two_terms(privacy, code_size, 1.0, max(1, round(privacy.sampling_rate * clients)))
    return discards + rounds * noise_slack(terms) + (noise_slack(terms) if statistics_size else 0.0)


def amplified_rate(privacy: PrivacyConfig, rate: float | None = None) -> float:
    """The sampling rate that may be charged: 1 in ``local``, where the noise of a sum depends on the cohort.

    Without a fixed noise on the sum there is no amplification by sampling; see ``common.privacy.mechanism``.
    """
    return 1.0 if privacy.trust == "local" else rate or privacy.sampling_rate


def stage_two_terms(privacy: PrivacyConfig, code_size: int, noise_multiplier: float, shares: int) -> ReleaseTerms:
    """Release terms of a round with ``shares`` selected clients."""
    return ReleaseTerms(
        size=code_size,
        clip_norm=privacy.clip_norm,
        noise_multiplier=noise_multiplier,
        trust=privacy.trust,
        shares=shares,
        normalize=privacy.clipping == "normalize",
    )


def _statistics_charge(config: RunConfig, delta: float, slack: float) -> Charge | None:
    if not config.statistics.private:
        return None
    rate = amplified_rate(config.privacy, config.statistics.sampling_rate)
    if config.privacy.epsilon > 0:
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
    if not stop:
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
