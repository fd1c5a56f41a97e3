"""From the configuration to a plan of charges: what noise epsilon buys, and how many rounds the budget."""

import math
from dataclasses import dataclass, replace
from functools import lru_cache

from common.config import ConfigError, PrivacyConfig, RunConfig
from common.counts import count
from common.privacy.accounting import Charge, calibrate, check_delta, default_delta, epsilon, max_rounds
from common.privacy.mechanism import MAX_SHARES
from common.privacy.price import SLACK_EPSILON, noise_slack, outsider_charge
from server_app.privacy.plan import MOST_SET_ASIDE, PrivacyPlan, provable, stage_two_terms
from server_app.privacy.sampling import binomial_limit
from server_app.privacy.scores import EVALUATION, score_slack
from server_app.privacy.shares import check_secure, noise_against, shares_not_counted
from server_app.privacy.stage_one import StageOne

_solved = lru_cache(maxsize=64)(calibrate)  # seconds each, and many runs of a comparison share a plan
_TAIL_SHARE = 1e-3  # of delta, for a cohort larger than the public number of noise shares


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

    Raises ``ConfigError`` when delta is not below 1/M, the budget affords nothing, or no message can carry the noise.
    """
    privacy, rounds = config.privacy, config.num_server_rounds
    delta = _delta(privacy, clients)
    check_secure(privacy, clients, stage)
    shares = _shares(privacy, clients, privacy.sampling_rate, rounds, delta)
    stage_one_shares = _shares(privacy, clients, stage.sampling_rate, 1, delta) if stage else 0
    _check_shares(privacy, clients, shares)
    if stage:
        _check_shares(privacy, clients, stage_one_shares, noisy=stage.private)
    evaluations = len(config.evaluation.evaluated(rounds)) if config.evaluation.private else 0
    slack = _slack(privacy, rounds, delta, (shares, code_size), (stage_one_shares, stage.size if stage else 0))
    if evaluations:
        _check_shares(privacy, clients, clients)
        slack += evaluations * score_slack(privacy, clients)
    if slack > MOST_SET_ASIDE * delta:
        raise ConfigError(
            f"privacy.delta = {delta:g}: {slack:.2g} would have to be set aside for discrete noise on codes of "
            f"{count(code_size, 'value')} over {count(rounds, 'round')}, and {MOST_SET_ASIDE:.0%} of it is the most; "
            "raise it, or make the codes smaller"
        )
    solver = _Solver(privacy, rounds, delta, slack)
    stage_one = solver.stage_one(stage) if stage else None
    before = (stage_one,) if stage_one and stage_one.noise_multiplier else ()
    evaluation = solver.evaluation(config.evaluation.private, evaluations, before) if evaluations else None
    if evaluation and evaluation.noise_multiplier:
        before = (*before, replace(evaluation, count=evaluations))
    per_round = solver.round(before)
    rounds = solver.affordable(budget, per_round, before)
    reason = _why_not_private(privacy, stage)
    total = math.inf if reason else provable(epsilon((*before, replace(per_round, count=rounds)), delta - slack))
    plan = PrivacyPlan(
        privacy=privacy,
        clients=clients,
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
    _check_terms(plan, code_size, stage)
    return plan


def check_shares(config: RunConfig, clients: int) -> None:
    """Refuse what ``make_plan`` will of delta and of the noise shares of a round, without a model's shape."""
    privacy = config.privacy
    delta = _delta(privacy, clients)
    check_secure(privacy, clients, None)
    _check_shares(privacy, clients, _shares(privacy, clients, privacy.sampling_rate, config.num_server_rounds, delta))


@dataclass(frozen=True)
class _Solver:
    """Charges of a run whose ``rounds``, ``delta`` and the part of it that is set aside (``slack``) are known."""

    privacy: PrivacyConfig
    rounds: int
    delta: float
    slack: float

    def stage_one(self, stage: StageOne) -> Charge:
        """Its share of epsilon, or twice the given noise; noise 0 where it sends in the clear."""
        unit = _unit_charge(self.privacy, stage.sampling_rate, stage.label)
        if not (stage.private and self.privacy.is_private):
            noise = 0.0
        elif self.privacy.epsilon > 0:
            noise = self._calibrated(self.privacy.epsilon * self.privacy.statistics_share, unit.sampling_rate, 1)
        else:
            noise = 2.0 * self.privacy.noise_multiplier
        return replace(unit, noise_multiplier=noise)

    def evaluation(self, share: float, count: int, before: tuple[Charge, ...]) -> Charge:
        """One of ``count``, which cost a share of epsilon; of what the rounds come to where their noise is given."""
        noise, whole = 0.0, self.privacy.epsilon
        if self.privacy.is_private:
            if not whole:
                rounds = replace(self._unit, noise_multiplier=self.privacy.noise_multiplier, count=self.rounds)
                whole = min(epsilon((*before, rounds), self.delta - self.slack), SLACK_EPSILON)
            noise = self._calibrated(whole * share, 1.0, count)
        return Charge(noise, 1.0, 1, EVALUATION)

    def round(self, before: tuple[Charge, ...]) -> Charge:
        """One round of stage 2, beside what is charged ``before``."""
        noise = 0.0
        if self.privacy.is_private:
            given, rate = self.privacy.noise_multiplier, self._unit.sampling_rate
            noise = given or self._calibrated(self.privacy.epsilon, rate, self.rounds, before)
        return replace(self._unit, noise_multiplier=noise)

    def affordable(self, budget: float, per_round: Charge, before: tuple[Charge, ...]) -> int:
        """Rounds within ``budget``, at most all; all of them where there is no budget, or no noise."""
        if not budget or not self.privacy.is_private:
            return self.rounds
        affordable = max_rounds(
            budget,
            self.delta,
            noise_multiplier=per_round.noise_multiplier,
            sampling_rate=per_round.sampling_rate,
            limit=self.rounds,
            before=before,
            slack=self.slack,
        )
        if affordable == 0:
            raise ConfigError(
                f"privacy.epsilon = {budget}: not even one round fits (stage 1 included); raise it, or the noise"
            )
        return affordable

    @property
    def _unit(self) -> Charge:
        return _unit_charge(self.privacy, self.privacy.sampling_rate, "stage 2: gradient")

    def _calibrated(self, budget: float, rate: float, rounds: int, before: tuple[Charge, ...] = ()) -> float:
        """The noise multiplier under which ``rounds`` releases at a sampling rate cost ``budget``."""
        try:
            return _solved(
                budget, self.delta, sampling_rate=rate, rounds=rounds, before=before, slack=self.slack
            )  # fmt: skip
        except ValueError as error:
            raise ConfigError(
                f"privacy.epsilon = {self.privacy.epsilon:g}: {error}; raise it, or run fewer rounds"
            ) from error


def _why_not_private(privacy: PrivacyConfig, stage: StageOne | None) -> str:
    """Why no finite epsilon can be stated end to end; ``""`` when one can."""
    if not privacy.is_private:
        return "privacy.epsilon = inf: no noise is added"
    return stage.reason if stage and not stage.private else ""


def _delta(privacy: PrivacyConfig, clients: int) -> float:
    delta = privacy.delta or default_delta(clients)
    try:
        check_delta(delta, clients)
    except ValueError as error:
        raise ConfigError(f"privacy.delta = {delta:g}: {error}") from error
    return delta


def _shares(privacy: PrivacyConfig, clients: int, rate: float, repeats: int, delta: float) -> int:
    """The public number of noise shares; under secure aggregation every client adds one to every sum."""
    return clients if privacy.trust == "secure" else binomial_limit(clients, rate, repeats, _TAIL_SHARE * delta)


def _check_shares(privacy: PrivacyConfig, clients: int, shares: int, *, noisy: bool = True) -> None:
    """Before seconds go into solving for the noise: shares that can be added, and more of them than colluders."""
    if shares > MAX_SHARES:
        raise ConfigError(
            f"federation.num-clients = {clients:,}: a cohort of theirs may need {shares:,} noise shares, and "
            f"{MAX_SHARES:,} are the most; enroll fewer, or ask fewer at a time"
        )
    if privacy.is_private and noisy:
        noise_against(shares_not_counted(privacy, clients), 1.0, shares)


def _check_terms(plan: PrivacyPlan, code_size: int, stage: StageOne | None) -> None:
    """Refuse what a run would find out when it asks its clients."""
    privacy = plan.privacy
    try:
        plan.round_terms(code_size)
        if stage:
            plan.stage_one_terms(stage)
    except ConfigError:
        raise
    except ValueError as error:
        noise, budget = privacy.noise_multiplier, privacy.epsilon
        given = f"privacy.noise-multiplier = {noise:g}" if noise else f"privacy.epsilon = {budget:g}"
        raise ConfigError(
            f"{given}: no message can carry that noise ({error}); take less of it, or a smaller code"
        ) from error


def _slack(
    privacy: PrivacyConfig, rounds: int, delta: float, codes: tuple[int, int], stage_one: tuple[int, int]
) -> float:
    """Delta set aside: cohorts beyond the public number of shares, and discrete noise charged as Gaussian.

    ``codes``, ``stage_one``: shares and size of a release of stage 2 and of stage 1; size 0 where there is none.
    """
    if not privacy.is_private:
        return 0.0
    # the approximation depends on z only through the grid, which keeps noise/step fixed: z = 1 stands for all
    parts = [rounds * _discrete(privacy, codes)] + ([_discrete(privacy, stage_one)] if stage_one[1] else [])
    if privacy.trust != "secure":  # where no cohort exceeds the shares
        parts = [len(parts) * _TAIL_SHARE * delta, *parts]
    return sum(parts)


def _discrete(privacy: PrivacyConfig, release: tuple[int, int]) -> float:
    shares, size = release
    return noise_slack(stage_two_terms(privacy, size, 1.0, shares))


def _unit_charge(privacy: PrivacyConfig, rate: float, label: str) -> Charge:
    """The charge of a release of noise multiplier 1: only its noise is left to solve for."""
    return outsider_charge(stage_two_terms(privacy, 1, 1.0, 1), rate, label)
