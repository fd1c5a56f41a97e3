"""What a release costs: its charges towards who sees sums or messages, and the δ of what is not exact in it."""

import math

from common.privacy import noise
from common.privacy.accounting import Charge
from common.privacy.mechanism import FALSE_ALARM, MOST_LEGS, SMOOTHING_STD, ReleaseTerms

SLACK_EPSILON = 20.0
"""``noise_slack`` holds for guarantees of ε up to this."""


def noise_slack(terms: ReleaseTerms) -> float:
    """Additive δ of one round for what is not exact: tails, sums of shares, discrete for continuous, false alarms.

    If a release lies within η in total variation of an exact one, (ε, δ) becomes (ε, δ + (1+e^ε)·η); stated
    for ε up to ``SLACK_EPSILON``. Rounding to the grid and clipping are exact and cost nothing. Valid for the
    sum and for one message; 0 without noise. Of a million values and a hundred shares:

    >>> noise_slack(ReleaseTerms(1_000_000, 1.0, 1.0, "distributed", 100, normalize=True)) < 3e-12
    True
    """
    if not terms.noise_multiplier:
        return 0.0
    draws = terms.parts if terms.trust == "secure" else terms.parts + 1
    smallest = math.sqrt(terms.total_variance / terms.parts)
    per_value = draws * noise.sampler_error(smallest) + noise.smoothing_error(SMOOTHING_STD)
    if terms.is_shared:
        per_value += noise.sum_error(smallest, draws)
    refused = draws * FALSE_ALARM if terms.client_std else 0.0
    legs = MOST_LEGS if terms.trust == "secure" else 1
    return legs * (1 + math.exp(SLACK_EPSILON)) * (math.expm1(terms.size * per_value) + refused)


def outsider_charge(terms: ReleaseTerms, sampling_rate: float, label: str = "", *, trusted_replies: int = 1) -> Charge:
    """Price one round towards those who see only the aggregate.

    (z, ``sampling_rate``); in ``local`` no amplification, so (z·√trusted_replies, 1). Leave ``trusted_replies`` at 1
    for a figure that holds even if all other clients collude.

    >>> outsider_charge(ReleaseTerms(64, 1.0, 2.0, "central", 8, normalize=True), 0.1)
    Charge(noise_multiplier=2.0, sampling_rate=0.1, count=1, label='')
    """
    if terms.trust == "local":
        return Charge(terms.noise_multiplier * math.sqrt(max(1, trusted_replies)), 1.0, 1, label)
    return Charge(terms.noise_multiplier, sampling_rate, 1, label)


def message_charge(terms: ReleaseTerms, label: str = "") -> Charge:
    """Price one message towards the server that reads it: never amplified, ε = ∞ in ``central``."""
    return Charge(terms.message_noise_multiplier, 1.0, 1, label)
