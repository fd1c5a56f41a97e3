"""What the run has spent: charged to the ledger before each release, read from it for every epsilon that is shown."""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import takewhile
from typing import Any

from common.privacy.accounting import Charge, RunningAccountant, cross_check, epsilon
from common.privacy.gaussian import gaussian_epsilon
from server_app.privacy.ledger import Ledger
from server_app.privacy.plan import PrivacyPlan, provable, why_infinite
from server_app.privacy.sampling import binomial_limit
from server_app.privacy.scores import EVALUATION
from server_app.privacy.shares import colluders_counted

_TAIL_SHARE = 1e-2  # of delta, for a client that is asked more often than the figure against the server assumes
_CROSS_CHECK_SECONDS = 30.0


def participation_limit(plan: PrivacyPlan, rounds: int) -> int:
    """Rounds of ``rounds`` that a client is asked in at most: no client exceeds it, but with a hundredth of delta."""
    return binomial_limit(rounds, plan.expected_cohort / plan.clients, plan.clients, _TAIL_SHARE * plan.delta)


def epsilon_of_messages(plan: PrivacyPlan, multipliers: Sequence[tuple[float, int]]) -> float:
    """Epsilon of one client's messages against who reads them: (noise multiplier of one message, how many).

    Gaussian mechanisms compose exactly: mu^2 is the sum of 1/z^2. No amplification by sampling: the server knows whom
    it asked. Delta is less what the participation limit takes.
    """
    if any(multiplier == 0 for multiplier, _ in multipliers):
        return math.inf
    squared = sum(count / multiplier**2 for multiplier, count in multipliers)
    delta = plan.delta * (1 - _TAIL_SHARE) - plan.slack
    return provable(gaussian_epsilon(math.sqrt(squared), delta)) if squared else 0.0


def compare_with_prv(plan: PrivacyPlan, charges: Sequence[Charge], epsilon: float) -> dict[str, Any]:
    """Whether the PRV accountant's bracket holds ``epsilon``: ``lower``, ``upper``, ``agrees``; or ``unavailable``.

    Takes seconds, 30 at most. ``unavailable`` is the reason why there is no bracket.
    """
    reason = why_infinite(plan.reason, epsilon)
    bounds = reason or _bounds(cross_check, tuple(charges), plan.delta - plan.slack)
    if isinstance(bounds, str):
        return {"unavailable": bounds.removeprefix("not cross-checked: ")}
    lower, upper = bounds[0], max(0.0, bounds[1])  # no loss is below none
    return {"lower": lower, "upper": upper, "agrees": lower <= epsilon <= upper}


@lru_cache(maxsize=64)
def _bounds(
    accountant: Callable[..., tuple[float, float] | str], charges: tuple[Charge, ...], delta: float
) -> tuple[float, float] | str:
    """Asked once a process: many runs of a comparison share their charges."""
    return accountant(charges, delta, timeout=_CROSS_CHECK_SECONDS)


def cross_check_sentence(check: dict[str, Any]) -> str:
    """The outcome of ``compare_with_prv`` for people; its bounds are rounded outwards, so that they still are some."""
    if "unavailable" in check:
        return f"not cross-checked: {check['unavailable']}"
    lower, upper = math.floor(check["lower"] * 1000) / 1000, math.ceil(check["upper"] * 1000) / 1000
    bracket = f"the bracket [{lower:.3f}, {upper:.3f}] of an independent accountant (PRV)"
    return (
        f"inside {bracket}" if check["agrees"] else f"DISAGREES with {bracket}: rely on neither until it is explained"
    )


def _missing(dropouts: int, colluders: int) -> str:
    """With any, a message that comes too late must not be read, nor one without the masks of missing colluders.

    See docs/privacy.md, the second leg.
    """
    if not dropouts:
        return "nobody misses a round that counts"
    honest = " and no colluder does" if colluders else ""
    absent = f"at most {dropouts} miss{'es' if dropouts == 1 else ''} a round{honest}"
    return f"{absent}, and what comes too late is dropped unread"


def assumptions(plan: PrivacyPlan) -> str:
    """What epsilon of the released model rests on besides the mechanism: who colludes, and whether cohorts are secret.

    To be printed beside it: it is no figure against more clients than these, nor against who knows the cohorts.
    """
    privacy = plan.privacy
    counted = colluders_counted(privacy, plan.clients)
    colluding = (
        f"at most {counted} client{'s collude' if counted > 1 else ' colludes'}" if counted else "no client colludes"
    )
    charges = (plan.round, plan.stage_one)
    amplified = any(charge and charge.noise_multiplier and charge.sampling_rate < 1 for charge in charges)
    if privacy.trust == "secure":
        coins = ", each client keeps its coins to itself" if amplified else ""
        return f"{colluding}, {_missing(privacy.dropouts, counted)}, the server keeps to the protocol{coins}"
    few = colluding if privacy.trust == "distributed" else "any number of clients may collude"
    return f"{few}, cohorts {'stay' if amplified else 'need not be'} secret"


class PrivacyAccount:
    """The ledger of one run, and from it epsilon of the released model and of one client against the server.

    ``message_noise``, ``stage_one_noise`` and ``evaluation_noise`` are the noise multipliers of one message by itself
    in stage 2, in stage 1 and in a private evaluation (0: in the clear). ``on_charge`` is called before each charge
    is written to the ledger, when every figure counts it already: what is shown is never below what is spent.
    """

    def __init__(
        self,
        plan: PrivacyPlan,
        ledger: Ledger,
        *,
        message_noise: float,
        stage_one_noise: float = math.inf,
        evaluation_noise: float = math.inf,
    ) -> None:
        self.plan = plan
        self._ledger = ledger
        self.message_noise = message_noise
        self._stage_one_noise, self._evaluation_noise = stage_one_noise, evaluation_noise
        self.on_charge: Callable[[], None] = lambda: None
        self._running = RunningAccountant(plan.delta, plan.slack)
        self._counted = 0  # of the ledger's charges
        self._coming: list[Charge] = []  # counted, and about to be written to the ledger
        self._count()

    @property
    def rounds_charged(self) -> int:
        """Rounds of stage 2 that the ledger holds, repeated ones included."""
        return self._charged(self.plan.round.label)

    @property
    def evaluations_charged(self) -> int:
        """Private evaluations that the ledger holds, repeated ones included."""
        return self._charged(EVALUATION)

    @property
    def exchange_number(self) -> int:
        """A number that rises with every question of a run; 0 before the first round. For secure aggregation."""
        return self.rounds_charged + self.evaluations_charged

    @property
    def ledger_head(self) -> str:
        """Hash of the ledger's last line, for a checkpoint."""
        return self._ledger.head

    def affords_round(self) -> bool:
        """Whether one more round stays within the plan."""
        return self.rounds_left > 0

    @property
    def rounds_left(self) -> float:
        """Rounds that can still be charged within the plan, whichever they are; inf where they cost nothing."""
        return self.plan.rounds - self.rounds_charged if self.plan.round.noise_multiplier else math.inf

    def affords_evaluation(self, *, last: bool) -> bool:
        """Whether a private evaluation stays within the plan; one is kept for the ``last``, whatever was repeated."""
        left = self.plan.evaluations - self.evaluations_charged
        return left > 0 if last else left > 1

    def charge_stage_one(self) -> None:
        """Write stage 1 to the ledger; to be called before its instructions go out."""
        if self.plan.stage_one:
            self._charge(self.plan.stage_one, 0)

    def charge_round(self, round_index: int) -> None:
        """Write one round to the ledger; to be called before its instructions go out."""
        self._charge(self.plan.round, round_index)

    def charge_evaluation(self, round_index: int) -> None:
        """Write a private evaluation to the ledger; to be called before its instructions go out."""
        if self.plan.evaluation:
            self._charge(self.plan.evaluation, round_index)

    def epsilon_model(self) -> float:
        """Epsilon of the released model so far, at the plan's delta; inf when a stage is not private."""
        return math.inf if self.plan.reason else provable(self._running.epsilon())

    def certify(self) -> float:
        """``epsilon_model`` on the accountant's fine grid, over every charge in the ledger."""
        return math.inf if self.plan.reason else provable(self._running.certify())

    def epsilon_of_statistics(self) -> float:
        """Epsilon of stage 1 alone; inf when a stage is not private."""
        return self._epsilon_of([charge for charge in self._ledger.charges if self._is_stage_one(charge)])

    def epsilon_before_rounds(self) -> float:
        """Epsilon of the released model before round 1: of stage 1 and of the base model's private evaluation."""
        return self._epsilon_of(
            list(takewhile(lambda charge: charge.label != self.plan.round.label, self._ledger.charges))
        )

    def _epsilon_of(self, charges: Sequence[Charge]) -> float:
        return math.inf if self.plan.reason else provable(epsilon(charges, self.plan.delta - self.plan.slack))

    def cross_check(self, epsilon: float) -> dict[str, Any]:
        """Hold the certified ``epsilon`` against the PRV accountant, over every charge: see ``compare_with_prv``."""
        return compare_with_prv(self.plan, self._ledger.charges, epsilon)

    def draw_number(self, round_index: int) -> int:
        """Which draw of a cohort a round is: the number of charges, its own included. Only seeded draws depend on it.

        A round that is asked again after a crash was charged again as an independent draw, so it must be one under the
        insecure test seed, too. Without noise nothing is charged for, and the same cohort is asked again.
        """
        return self.rounds_charged if self.plan.round.noise_multiplier else round_index

    @property
    def participations(self) -> int:
        """Rounds that a client is asked in at most.

        A function of public numbers only: how often clients *were* asked would tell the secret cohorts.
        """
        return participation_limit(self.plan, self.rounds_charged)

    def epsilon_server(self) -> float:
        """Epsilon of all messages of one client against the server, asked in ``participations`` rounds and stage 1."""
        if self.plan.reason:
            return math.inf
        if self.plan.trust == "secure":  # it sees the sums, as they are released
            return self.epsilon_model()
        messages = (
            (self.message_noise, self.participations),
            (self._stage_one_noise, sum(map(self._is_stage_one, self._charges))),
            (self._evaluation_noise, self.evaluations_charged),
        )
        return epsilon_of_messages(self.plan, messages)

    @property
    def _charges(self) -> list[Charge]:
        return [*self._ledger.charges, *self._coming]

    def _charged(self, label: str) -> int:
        return sum(1 for charge in self._charges if charge.label == label)

    def _is_stage_one(self, charge: Charge) -> bool:
        return charge.label not in {self.plan.round.label, EVALUATION}

    def _charge(self, charge: Charge, round_index: int) -> None:
        """Count, show, write. A charge that could not be written stays counted: its line may be on disk."""
        self._running.charge(charge)
        self._coming = [charge]
        self.on_charge()
        self._ledger.charge(charge, round_index=round_index)
        self._count(own=1)
        self._coming = []

    def _count(self, own: int = 0) -> None:
        """Take in what others have come to write to the ledger; its last ``own`` charges are counted already."""
        charges = self._ledger.charges
        for charge in charges[self._counted : len(charges) - own]:
            self._running.charge(charge)
        self._counted = len(charges)
