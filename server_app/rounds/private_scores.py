"""Private evaluation, server side: what the clients' noisy scores on their own held-out rows come to.

Everybody is asked, so no cohort has to stay secret and the sum is of all; it is divided by the number of enrolled
clients, never by that of replies. Who is away or fails counts as the middle of both scores (``common.score_code``).
"""

import math
from dataclasses import dataclass

from flwr.app import MetricRecord
from torch import Tensor

from common.counts import count
from common.privacy.mechanism import ReleaseTerms
from common.score_code import decode_scores, score_errors
from server_app.results.score_names import PRIVATE_ACCURACY, PRIVATE_LOSS


@dataclass(frozen=True)
class PrivateScores:
    """Mean scores over all clients.

    Attributes:
        loss: nats per completion token, each client's clipped.
        accuracy: share of completion tokens that the model ranks first, 0..1; noise may take either out of its range.
        loss_error: standard deviation of the noise in it.
        accuracy_error: the same.

    """

    loss: float
    accuracy: float
    loss_error: float
    accuracy_error: float

    @classmethod
    def of(cls, total: Tensor, terms: ReleaseTerms, clients: int) -> "PrivateScores":
        """Of the noisy ``total`` of codes (shape ``[2]``); the errors are as if all ``clients`` had answered.

        How many did is nobody's business who reads the scores.
        """
        loss, accuracy = decode_scores(total / clients)
        return cls(loss, accuracy, *score_errors(terms.total_std(clients) / clients))

    def metrics(self) -> dict[str, float]:
        """As a line of ``metrics.jsonl`` has them."""
        return {
            PRIVATE_LOSS: self.loss,
            f"{PRIVATE_LOSS}_error": self.loss_error,
            PRIVATE_ACCURACY: self.accuracy,
            f"{PRIVATE_ACCURACY}_error": self.accuracy_error,
        }


def with_scores(metrics: MetricRecord | None, scores: PrivateScores | None) -> MetricRecord | None:
    """Metrics of public examples, if there are any, and private scores, if there are any."""
    if scores is None:
        return metrics
    return MetricRecord({**(metrics or {}), **scores.metrics()})


HOPELESS = 0.1


def imprecision(loss_error: float, accuracy_error: float, evaluations: int, clients: int) -> str:
    """What to say at the start of a run whose private accuracy has a standard error above a tenth; else ``""``."""
    if not HOPELESS < accuracy_error < math.inf:
        return ""
    return (
        f"evaluation.private: with {count(clients, 'client')} and {count(evaluations, 'evaluation')} noise makes each "
        f"accuracy ± {100 * accuracy_error:.0f} points and each loss ± {loss_error:.2g} nats: too much to see "
        "anything; raise evaluation.every or evaluation.private, or set it to 0"
    )
