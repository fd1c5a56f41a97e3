"""Which ε is not worked out, since it is far above whatever may be claimed and its price is minutes and gigabytes."""

import math

from scipy.special import log_ndtr

UNTOLD_EPSILON = 50.0
"""An ε that is certainly above this is told as ∞, which nobody may claim anyway: noise so low has losses in the
thousands, whose distribution on the certifying grid takes minutes and gigabytes."""
SMALLEST_TOLD = 0.05
"""The same holds of sampled releases with less noise than this, whatever their ε."""


def is_untold(multiplier: float, rate: float, count: int, delta: float) -> bool:
    """Whether ε is told as ∞ unseen: with next to no noise, or where one of two tests shows it above the limit.

    δ(ε) ≥ P(present: alarm) − e^ε P(absent: alarm) for every test. One raises the alarm when the mean of all outputs
    is as high as ⌊q T⌋ samplings make it (right half of the times, in half of the runs), the other when any output is
    above 1 (right half of the times once a client is sampled). Unsampled releases have a closed form of their own.
    """
    if rate == 1:
        return False
    if multiplier < SMALLEST_TOLD:
        return True
    mean = math.floor(rate * count) / (math.sqrt(count) * multiplier)
    sampled = -math.expm1(count * math.log1p(-rate))
    tests = ((0.25, log_ndtr(-mean)), (sampled / 2, math.log(count) + log_ndtr(-1 / multiplier)))
    return any(UNTOLD_EPSILON + alarms < math.log(hits - delta) for hits, alarms in tests if hits > delta)
