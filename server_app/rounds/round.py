"""One round as a value: configured, asked, closed with its replies, summed up. Nothing of it is kept elsewhere."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from flwr.app import Message
from numpy.typing import NDArray

from common.codecs.base import Codec
from common.counts import count
from server_app.privacy.account import PrivacyAccount
from server_app.rounds.cohort import Instruction, Replies
from server_app.rounds.downlink import Parcel
from server_app.rounds.state import RoundSummary
from server_app.rounds.traffic import Traffic


@dataclass(frozen=True)
class Repair:
    """The second leg of secure aggregation, where clients were missing in the first: asked and answered."""

    instruction: Instruction
    replies: Replies

    @property
    def traffic(self) -> Traffic:
        """What it moved."""
        return Traffic.of(self.instruction, self.replies)


@dataclass(frozen=True)
class Heard:
    """What came of an instruction.

    Attributes:
        replies: who answered what, and why others did not.
        shortage: why there is no sum under secure aggregation; ``""`` where there is one, or none is needed.
        repair: the second leg, where clients were missing.
        summed: the noisy sum of the codes (grid steps, shape ``[size]``).

    """

    replies: Replies
    shortage: str = ""
    repair: Repair | None = None
    summed: NDArray[np.int64] | None = None

    def traffic(self, asked: Instruction) -> Traffic:
        """What the instruction and its second leg moved."""
        return Traffic.of(asked, self.replies) + (self.repair.traffic if self.repair else Traffic())


@dataclass(frozen=True)
class OpenRound:
    """A round that is charged and configured: what its cohort is asked, cut from what, and the codec of the answers.

    ``heard``: under secure aggregation, what came of it.
    """

    instruction: Instruction
    codec: Codec
    parcel: Parcel
    heard: Heard | None = None

    @property
    def number(self) -> int:
        """Rounds are counted from 1."""
        return self.instruction.round

    @property
    def messages(self) -> list[Message]:
        """One for everybody who is asked."""
        return self.instruction.messages

    def close(self, replies: Sequence[Message], *, least: float, noisy: bool) -> "ClosedRound":
        """Sort the replies; too few are fewer than the share ``least`` of the cohort.

        ``noisy``: the step is then taken however many replied, since whether it is must not depend on who did.
        """
        if self.heard is not None:
            return ClosedRound(self, self.heard.replies, self.heard.shortage, steps=self.heard.summed is not None)
        found = self.instruction.sort(replies)
        cohort, replied = len(self.instruction.cohort), len(found.releases)
        needed = math.ceil(least * cohort)
        shortage = "" if replied >= needed else f"{replied} of {count(cohort, 'client')} replied, {needed} are needed"
        return ClosedRound(self, found, shortage, steps=noisy or not shortage)


@dataclass(frozen=True)
class ClosedRound:
    """A round whose replies are in.

    Attributes:
        opened: the round as it was asked.
        replies: who of the cohort released what, and why others did not.
        shortage: what was missing where too few replied; ``""`` where enough did.
        steps: whether the server takes its step.

    """

    opened: OpenRound
    replies: Replies
    shortage: str
    steps: bool

    @property
    def summed(self) -> NDArray[np.int64] | None:
        """The noisy sum of the codes (grid steps, shape ``[k]``), all that there is under secure aggregation."""
        return self.opened.heard.summed if self.opened.heard else None

    @property
    def releases(self) -> list[np.ndarray]:
        """The cohort's releases (shape ``[k]`` each), in the order of their nodes."""
        return [self.replies.releases[node] for node in sorted(self.replies.releases)]

    def summary(self, account: PrivacyAccount, seconds: float, evaluation: Traffic) -> RoundSummary:
        """What there is to tell of it, after ``seconds``; ``evaluation``: what the private one after it moved."""
        instruction, replies = self.opened.instruction, self.replies
        heard = self.opened.heard or Heard(replies)
        summed = heard.repair.replies if heard.repair else replies
        moved = heard.traffic(instruction) + evaluation
        return RoundSummary(
            round=instruction.round,
            cohort=len(instruction.cohort),
            replies=len(replies.releases),
            shortage=self.shortage,
            failures=len(replies.failures) if instruction.messages else 0,
            failure=replies.commonest_failure if instruction.messages else "",
            **asdict(moved),
            seconds=seconds,
            epsilon=account.epsilon_model(),
            epsilon_server=account.epsilon_server(),
            noise_promised=account.plan.round.noise_multiplier * instruction.terms.clip_norm,
            noise_present=instruction.terms.total_std(len(summed.releases)),
        )
