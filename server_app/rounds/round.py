"""One round as a value: configured, asked, closed with its replies, summed up. Nothing of it is kept elsewhere."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from flwr.app import Message

from common.codecs.base import Codec
from server_app.privacy.account import PrivacyAccount
from server_app.rounds.cohort import Instruction, Replies
from server_app.rounds.state import RoundSummary


@dataclass(frozen=True)
class OpenRound:
    """A round that is charged and configured: what its cohort is asked, and the codec of the answers."""

    instruction: Instruction
    codec: Codec

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
        found = self.instruction.sort(replies)
        cohort, replied = len(self.instruction.cohort), len(found.releases)
        needed = math.ceil(least * cohort)
        shortage = "" if replied >= needed else f"{replied} of {cohort} clients replied, {needed} are needed"
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
    def releases(self) -> list[np.ndarray]:
        """The cohort's releases (shape ``[k]`` each), in the order of their nodes."""
        return [self.replies.releases[node] for node in sorted(self.replies.releases)]

    def summary(self, account: PrivacyAccount, seconds: float) -> RoundSummary:
        """What there is to tell of it, after ``seconds``."""
        instruction, replies = self.opened.instruction, self.replies
        return RoundSummary(
            round=instruction.round,
            cohort=len(instruction.cohort),
            replies=len(replies.releases),
            shortage=self.shortage,
            failures=len(replies.failures) if instruction.messages else 0,
            failure=replies.commonest_failure if instruction.messages else "",
            asked=len(instruction.messages),
            answered=replies.answered,
            bytes_up=replies.bytes_up,
            bytes_down=instruction.bytes_down,
            seconds=seconds,
            epsilon=account.epsilon_model(),
            epsilon_server=account.epsilon_server(),
            noise_promised=account.plan.round.noise_multiplier * instruction.terms.clip_norm,
            noise_present=instruction.terms.total_std(len(replies.releases)),
        )
