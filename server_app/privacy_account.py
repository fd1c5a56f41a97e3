"""What the run has spent: charged to the ledger before each release, read from it for every epsilon that is shown."""

import math
from collections.abc import Iterable

from common.privacy.accounting import Charge, RunningAccountant
from common.privacy.gaussian import gaussian_epsilon
from common.privacy.ledger import Ledger
from common.privacy.mechanism import ReleaseTerms
from server_app.privacy_plan import PrivacyPlan


class PrivacyAccount:
    """The ledger of one run, the running epsilon of the released model, and each client's exposure to the server.

    A client's exposure is the sum of 1/z^2 over the messages it was asked for, z being the noise of one message
    relative to the clip norm; Gaussian mechanisms compose exactly in that sum, without amplification by sampling.
    """

    def __init__(self, plan: PrivacyPlan, ledger: Ledger, exposure: dict[int, float] | None = None) -> None:
        self.plan = plan
        self._ledger = ledger
        self._running = RunningAccountant(plan.delta, plan.slack)
        for charge in ledger.charges:
            self._running.charge(charge)
        self.exposure = dict(exposure or {})

    @property
    def rounds_charged(self) -> int:
        """Rounds of stage 2 that the ledger holds, repeated and discarded ones included."""
        return sum(1 for charge in self._ledger.charges if self._is_round(charge))

    @property
    def ledger_head(self) -> str:
        """Hash of the ledger's last line, for a checkpoint."""
        return self._ledger.head

    def times_charged(self, round_index: int) -> int:
        """How often the ledger holds this round."""
        return self._ledger.rounds_charged(round_index)

    def affords_round(self) -> bool:
        """Whether one more round stays within the plan."""
        return self.plan.round is None or self.rounds_charged < self.plan.rounds

    def charge_statistics(self) -> None:
        """Write stage 1 to the ledger; to be called before its instructions go out."""
        if self.plan.statistics:
            self._charge(self.plan.statistics, 0)

    def charge_round(self, round_index: int) -> None:
        """Write one round to the ledger; to be called before its instructions go out."""
        if self.plan.round:
            self._charge(self.plan.round, round_index)

    def expose(self, nodes: Iterable[int], terms: ReleaseTerms, *, raw: bool = False) -> None:
        """Count a message of each node against the server."""
        noise = 0.0 if raw else terms.message_noise_multiplier
        weight = math.inf if noise == 0 else noise**-2
        for node in nodes:
            self.exposure[node] = self.exposure.get(node, 0.0) + weight

    def epsilon_model(self) -> float:
        """Epsilon of the released model so far, at the plan's delta; inf when a stage is not private."""
        return math.inf if self.plan.reason else self._running.epsilon()

    def certify(self) -> float:
        """``epsilon_model`` on the accountant's fine grid, over every charge in the ledger."""
        return math.inf if self.plan.reason else self._running.certify()

    def epsilon_server(self) -> float:
        """Epsilon of the most exposed client's messages against the server, at the plan's delta."""
        worst = max(self.exposure.values(), default=0.0)
        if math.isinf(worst):
            return math.inf
        return gaussian_epsilon(math.sqrt(worst), self.plan.delta) if worst > 0 else 0.0

    def _charge(self, charge: Charge, round_index: int) -> None:
        self._ledger.charge(charge, round_index=round_index)
        self._running.charge(charge)

    def _is_round(self, charge: Charge) -> bool:
        return self.plan.round is not None and charge.label == self.plan.round.label


def carry_exposure(exposure: dict[int, float], nodes: Iterable[int]) -> dict[int, float]:
    """Exposure of a resumed run's clients, never too low.

    A client that comes back under another node id (a new simulation gives new ids) cannot be told from the others, so
    every client under a new id is given the largest exposure of those that are gone.
    """
    present = set(nodes)
    gone = max((spent for node, spent in exposure.items() if node not in present), default=0.0)
    return {node: exposure.get(node, gone) for node in present} if gone else dict(exposure)
