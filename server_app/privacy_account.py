"""What the run has spent: charged to the ledger before each release, read from it for every epsilon that is shown."""

import math

from common.privacy.accounting import Charge, RunningAccountant
from common.privacy.gaussian import gaussian_epsilon
from common.privacy.ledger import Ledger
from common.privacy.sampling import binomial_limit
from server_app.privacy_plan import PrivacyPlan, provable

_TAIL_SHARE = 1e-2  # of delta, for a client that is asked more often than the figure against the server assumes


class PrivacyAccount:
    """The ledger of one run, and from it epsilon of the released model and of one client against the server.

    ``message_noise`` and ``statistics_noise`` are the noise multipliers of one message by itself in stage 2 and stage 1
    (0: in the clear).
    """

    def __init__(
        self, plan: PrivacyPlan, ledger: Ledger, *, message_noise: float, statistics_noise: float = math.inf
    ) -> None:
        self.plan = plan
        self._ledger = ledger
        self._message_noise = message_noise
        self._statistics_noise = statistics_noise
        self._running = RunningAccountant(plan.delta, plan.slack)
        for charge in ledger.charges:
            self._running.charge(charge)

    @property
    def rounds_charged(self) -> int:
        """Rounds of stage 2 that the ledger holds, repeated ones included."""
        return sum(1 for charge in self._ledger.charges if charge.label == self.plan.round.label)

    @property
    def ledger_head(self) -> str:
        """Hash of the ledger's last line, for a checkpoint."""
        return self._ledger.head

    def affords_round(self) -> bool:
        """Whether one more round stays within the plan."""
        return not self.plan.round.noise_multiplier or self.rounds_charged < self.plan.rounds

    def charge_statistics(self) -> None:
        """Write stage 1 to the ledger; to be called before its instructions go out."""
        if self.plan.statistics:
            self._charge(self.plan.statistics, 0)

    def charge_round(self, round_index: int) -> None:
        """Write one round to the ledger; to be called before its instructions go out."""
        self._charge(self.plan.round, round_index)

    def epsilon_model(self) -> float:
        """Epsilon of the released model so far, at the plan's delta; inf when a stage is not private."""
        return math.inf if self.plan.reason else provable(self._running.epsilon())

    def certify(self) -> float:
        """``epsilon_model`` on the accountant's fine grid, over every charge in the ledger."""
        return math.inf if self.plan.reason else provable(self._running.certify())

    @property
    def participations(self) -> int:
        """Rounds that a client is asked in at most: no client exceeds it, but with a hundredth of delta.

        A function of public numbers only: how often clients *were* asked would tell the secret cohorts. A round that
        was charged again after a crash asks the same cohort again.
        """
        charged = self.rounds_charged
        distinct = len({index for index in range(1, charged + 1) if self._ledger.rounds_charged(index)})
        rate = self.plan.expected_cohort / self.plan.clients
        limit = binomial_limit(distinct, rate, self.plan.clients, _TAIL_SHARE * self.plan.delta)
        return limit + charged - distinct

    def epsilon_server(self) -> float:
        """Epsilon of all messages of one client against the server, asked in ``participations`` rounds and stage 1.

        Gaussian mechanisms compose exactly: mu^2 is the sum of 1/z^2 over the messages, z being the noise of one
        message relative to the clip norm. No amplification by sampling: the server knows whom it asked.
        """
        if self.plan.reason or self._message_noise == 0 or self._statistics_noise == 0:
            return math.inf
        first = sum(1 for charge in self._ledger.charges if charge.label != self.plan.round.label)
        squared = self.participations / self._message_noise**2 + first / self._statistics_noise**2
        delta = self.plan.delta * (1 - _TAIL_SHARE) - self.plan.slack
        return provable(gaussian_epsilon(math.sqrt(squared), delta)) if squared else 0.0

    def _charge(self, charge: Charge, round_index: int) -> None:
        self._ledger.charge(charge, round_index=round_index)
        self._running.charge(charge)
