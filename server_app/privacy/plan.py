"""A plan of charges, fixed before a run: the noise of both stages, what it is charged, and the terms that follow."""

import math
from dataclasses import dataclass

from common.config import PrivacyConfig
from common.privacy.accounting import Charge
from common.privacy.mechanism import ReleaseTerms
from common.privacy.price import SLACK_EPSILON
from common.score_code import score_errors
from server_app.privacy.scores import score_terms
from server_app.privacy.shares import noise_against, shares_not_counted
from server_app.privacy.stage_one import StageOne


@dataclass(frozen=True)
class PrivacyPlan:
    """What the run will charge, fixed before it starts.

    Attributes:
        privacy: what was asked for.
        clients: enrolled clients M.
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

    privacy: PrivacyConfig
    clients: int
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
    def noisy_stage_one(self) -> bool:
        """Whether there is a stage 1 that releases with noise."""
        return self.stage_one is not None and self.stage_one.noise_multiplier > 0

    @property
    def trust(self) -> str:
        """``privacy.trust``."""
        return self.privacy.trust

    def round_terms(self, code_size: int) -> ReleaseTerms:
        """Release terms of a round of stage 2 as planned."""
        return stage_two_terms(self.privacy, code_size, self._against(self.round, self.shares), self.shares)

    def stage_one_terms(self, stage: StageOne) -> ReleaseTerms:
        """Release terms of stage 1 as planned; noise 0 when it sends in the clear."""
        noise = self._against(self.stage_one, self.stage_one_shares)
        return ReleaseTerms(
            size=stage.size if noise else stage.open_size,
            clip_norm=stage.clip_norm,
            noise_multiplier=noise,
            trust=self.privacy.trust,
            shares=self.stage_one_shares,
            normalize=False,
        )

    @property
    def evaluation_terms(self) -> ReleaseTerms | None:
        """Release terms of a private evaluation as planned; ``None`` without any."""
        charge = self.evaluation
        return score_terms(self.privacy, self.clients, charge.noise_multiplier) if charge else None

    def mean_noise(self, code_size: int) -> float:
        """Std, over the clip norm, of the noise on the mean of an expected cohort's codes of ``code_size`` values.

        z/K in ``central``; more with the shares against colluders, or drop-outs; z/√K in ``local``, where every client
        adds all of it.
        """
        terms = self.round_terms(code_size)
        adding = self.clients if self.trust == "secure" else round(self.expected_cohort)
        return terms.total_std(adding) / (self.expected_cohort * terms.clip_norm)

    @property
    def score_noise(self) -> tuple[float, float]:
        """Std of the noise on loss (nats per token) and accuracy (0..1) of a private evaluation that all answer."""
        terms = self.evaluation_terms
        return score_errors(terms.total_std(self.clients) / self.clients) if terms else (0.0, 0.0)

    def clients_asked(self, *, cover: bool) -> float:
        """Clients that a round is expected to ask: p M, or with ``cover`` traffic and in ``secure`` all M."""
        return float(self.clients) if cover or self.trust == "secure" else self.expected_cohort

    def why_infinite_to_server(self, epsilon: float) -> str:
        """Why no ``epsilon`` is claimed for one client against the server; ``""`` when one is."""
        if not self.reason and self.trust == "central":
            return "the server is trusted with single messages, which carry no noise of their own"
        return why_infinite(self.reason, epsilon)

    def _against(self, charge: Charge | None, shares: int) -> float:
        """The noise multiplier that leaves the charged one when colluders' and drop-outs' shares are taken off."""
        counted = shares_not_counted(self.privacy, self.clients)
        return noise_against(counted, charge.noise_multiplier if charge else 0.0, shares)


MOST_SET_ASIDE = 0.5
"""Of delta, for approximations: what a plan may set aside, and what is taken off where no plan can be made any more."""


def provable(value: float) -> float:
    """An epsilon beyond what the bounds on the discrete noise were computed for is not claimed: it is inf."""
    return value if value <= SLACK_EPSILON else math.inf


def why_infinite(reason: str, epsilon: float) -> str:
    """Why ``epsilon`` is inf: the plan's ``reason``, or that it is too large to be claimed; ``""`` when it is not."""
    return reason or (f"epsilon is above {SLACK_EPSILON:g}" if math.isinf(epsilon) else "")


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
