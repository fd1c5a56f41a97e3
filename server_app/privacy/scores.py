"""Private evaluation as the privacy plan must pay for it: what a client's scores are released under."""

from common.config import PrivacyConfig
from common.privacy.mechanism import ReleaseTerms
from common.privacy.price import noise_slack
from common.score_code import SIZE
from server_app.privacy.shares import noise_against, shares_not_counted

EVALUATION = "private evaluation"
"""Label of the charge of one."""


def score_terms(privacy: PrivacyConfig, clients: int, charged: float) -> ReleaseTerms:
    """Release terms of scores under a ``charged`` noise multiplier: more with the shares against colluders.

    Everybody is asked, so there are as many noise shares as clients.
    """
    noise = noise_against(shares_not_counted(privacy, clients), charged, clients)
    return _terms(privacy, clients, noise)


def score_slack(privacy: PrivacyConfig, clients: int) -> float:
    """Delta to set aside for the discrete noise of one evaluation."""
    return noise_slack(_terms(privacy, clients, 1.0)) if privacy.is_private else 0.0


def _terms(privacy: PrivacyConfig, clients: int, noise_multiplier: float) -> ReleaseTerms:
    return ReleaseTerms(SIZE, 1.0, noise_multiplier, privacy.trust, clients, normalize=False)
