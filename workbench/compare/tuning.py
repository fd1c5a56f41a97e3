"""The search for a step size: the same number of trials for everyone, on a grid that goes where the best ones are.

The first three trials are a factor 3 apart, centered on a start rule. Every further one follows from those before: if
the best lies at an edge of the grid, the grid is extended there; else the larger gap beside the best is halved (in the
logarithm). So a method whose start rule is poor gets no more trials than one whose rule is good. Steps have three
digits; a search whose next step was tried already has nothing left to learn and ends before its last trial.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

FACTOR = 3.0
FIRST = 3
"""Trials that are decided before anything has been seen: the smallest number that a search can have."""
NOISELESS_STEP = 0.3


def start_step(noise: float) -> float:
    """The step that the grid is centered on: .015/noise, .3 without noise, found in pilot experiments at clip norm 1.

    ``noise``: std of all the noise on a round's mean code, over the clip norm.
    """
    return float(f"{0.015 / noise if noise else NOISELESS_STEP:.3g}")


@dataclass(frozen=True, order=True)
class Score:
    """What a step is chosen by: accuracy on public validation examples (0-1), then their loss (less is better).

    Rows without choices have no accuracy (0 for all): their loss decides.
    """

    accuracy: float
    minus_loss: float


_FAILED = Score(-math.inf, -math.inf)


@dataclass
class StepSearch:
    """One search of ``trials`` steps around ``center``; ask ``next`` for steps, ``tell`` how each did."""

    center: float
    trials: int
    scores: dict[float, Score] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.trials < FIRST:
            raise ValueError(f"trials = {self.trials}: a search needs at least {FIRST}")

    def next(self) -> list[float]:
        """The steps to try now: three at the beginning, then one at a time; none when all trials are done.

        None either when the next one, rounded to three digits, was tried already.
        """
        if not self.scores:
            return [_round(self.center * factor) for factor in (1 / FACTOR, 1.0, FACTOR)]
        if len(self.scores) >= self.trials:
            return []
        step = _round(self._further())
        return [step] if 0 < step < math.inf and step not in self.scores else []

    def _further(self) -> float:
        """Beyond the edge where the best lies there, else in the middle of the wider gap beside it."""
        steps = sorted(self.scores)
        place = steps.index(self.best)
        if place == 0:
            return steps[0] / FACTOR
        if place == len(steps) - 1:
            return steps[-1] * FACTOR
        below, best, above = steps[place - 1 : place + 2]
        neighbor = below if best / below > above / best else above
        return math.sqrt(best * neighbor)

    def tell(self, step: float, score: Score | None) -> None:
        """Note how a step did; ``None`` when none of its runs ended."""
        self.scores[step] = score or _FAILED

    @property
    def best(self) -> float:
        """The best step so far; of equals the smallest, which forgets least."""
        return best_of(self.scores)

    @property
    def at_edge(self) -> bool:
        """Whether the best is the smallest or largest step that was tried, so that a better one may lie beyond."""
        return self.best in (min(self.scores), max(self.scores))


def best_of(scores: Mapping[float, Score]) -> float:
    """The step of the best score; of equals the smallest, which forgets least."""
    return max(sorted(scores), key=lambda step: scores[step])


def _round(step: float) -> float:
    return float(f"{step:.3g}")
