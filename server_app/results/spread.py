"""Standard errors of scores on a sample of questions; they say nothing of other seeds."""

import math
from collections.abc import Sequence


def share_error(share: float, count: int) -> float:
    """Standard error of a share of ``count`` independent questions: sqrt(p (1 - p) / n); NaN without any.

    >>> round(share_error(0.5, 100), 3)
    0.05
    """
    return math.sqrt(share * (1 - share) / count) if count else math.nan


def ratio_error(values: Sequence[float], weights: Sequence[int]) -> float:
    """Standard error of sum(values) / sum(weights) over a sample of examples; NaN of fewer than two.

    The linearized variance of a ratio (Cochran, Sampling Techniques, 3rd ed., section 2.11), the finite population's
    correction left out.

    >>> ratio_error([1.0, 3.0], [1, 1])
    1.0
    """
    count, whole = len(values), sum(weights)
    if count < 2 or not whole:
        return math.nan
    ratio = sum(values) / whole
    squares = sum((value - ratio * weight) ** 2 for value, weight in zip(values, weights, strict=True))
    return math.sqrt(count / (count - 1) * squares) / whole
