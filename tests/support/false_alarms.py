"""How often a statistical test fails although the code is right.

Every such test bears ``statistical(rate, source)``: those markers are the registry, ``registered`` reads them back and
``test_false_alarms.py`` holds their totals and docs/privacy.md against each other. ``rate`` is that of one parametrised
case, of all its assertions together (union bound). ``source``:

- ``"system"``: the operating system's randomness decides, so a run of the tests fails at this rate;
- ``"seeded"``: a fixed seed decides, so it never flakes; the rate is that on a fresh seed.

``python -m tests.support.false_alarms`` prints the figures of docs/privacy.md. The functions below give the rates
exactly
where the law of the statistic is known and by its normal limit elsewhere.
"""

import importlib
import inspect
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from scipy import stats

Source = Literal["system", "seeded"]
TESTS = Path(__file__).parents[1]


def statistical(rate: float, source: Source) -> pytest.MarkDecorator:
    """Mark a test as one that fails for right code in a share ``rate`` of fresh draws, for each of its cases."""
    assert 0 <= rate < 1, f"a false-alarm rate of {rate} is none"
    return pytest.mark.statistical(rate=rate, source=source)


@dataclass(frozen=True)
class Statistical:
    """One marked test: where it is, how many cases it has, and how often one of them fails by chance."""

    module: str
    name: str
    cases: int
    rate: float
    source: Source

    @property
    def total(self) -> float:
        """Of all its cases."""
        return self.cases * self.rate

    @property
    def file(self) -> str:
        """Path of its module, as written in docs/privacy.md."""
        return self.module.replace(".", "/") + ".py"


def totals(tests: Iterable[Statistical]) -> dict[Source, float]:
    """Rates of all their cases by source (union bound)."""
    found: dict[Source, float] = {"system": 0.0, "seeded": 0.0}
    for test in tests:
        found[test.source] += test.total
    return found


def figure(rate: float) -> str:
    """A rate as docs/privacy.md writes it: rounded up to one digit, or ``-`` for none."""
    if rate == 0:
        return "-"
    power = math.floor(math.log10(rate))
    digit = math.ceil(rate / 10**power - 1e-9)
    digit, power = (1, power + 1) if digit == 10 else (digit, power)
    return f"{digit}·10" + str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def registered() -> list[Statistical]:
    """All marked tests, by importing every test module."""
    found = []
    for module, name, function in all_tests():
        marks = getattr(function, "pytestmark", [])
        cases = math.prod(len(mark.args[1]) for mark in marks if mark.name == "parametrize")
        found += [Statistical(module, name, cases, **mark.kwargs) for mark in marks if mark.name == "statistical"]
    return found


def all_tests() -> Iterator[tuple[str, str, Callable[..., Any]]]:
    """(module, name, function) of every test."""
    for path in sorted(TESTS.rglob("test_*.py")):
        module = importlib.import_module(".".join(path.relative_to(TESTS.parent).with_suffix("").parts))
        for name, function in vars(module).items():
            if name.startswith("test_") and inspect.isfunction(function) and function.__module__ == module.__name__:
                yield module.__name__, name, function


def rms_outside(low: float, high: float, values: int) -> float:
    """P that the root mean square of so many standard normal values leaves [low, high]: chi squared, exact."""
    return float(stats.chi2.cdf(values * low**2, values) + stats.chi2.sf(values * high**2, values))


def beyond(deviations: float, count: int = 1) -> float:
    """P that one of ``count`` normal values is further than so many standard deviations from its mean (union)."""
    return float(count * 2 * stats.norm.sf(deviations))


def correlation_beyond(limit: float, values: int, pairs: int = 1) -> float:
    """P that one of ``pairs`` correlations of independent normal columns of so many values exceeds ``limit``: exact."""
    t = limit * math.sqrt((values - 2) / (1 - limit**2))
    return float(pairs * 2 * stats.t.sf(t, values - 2))


def count_outside(low: float, high: float, trials: int, rate: float) -> float:
    """P that a count of Bin(trials, rate) is below ``low`` or above ``high``: exact."""
    return float(stats.binom.cdf(math.ceil(low) - 1, trials, rate) + stats.binom.sf(math.floor(high), trials, rate))


def audit_outside(mu: float, low: float, high: float, runs: int = 4000, confidence: float = 0.999) -> float:
    """P that ``audit.mu_lower_bound`` of a mechanism of exactly ``mu`` leaves [low, high]: exact, worst threshold.

    Above ``mu`` it is far below 1 - confidence, which allows for either limit to fail by itself (union bound): a result
    above ``mu`` takes counts that are both too low, or one that is far beyond its limit.
    """
    counts = np.arange(runs + 1)
    quantiles = -stats.norm.ppf(stats.beta.ppf(1 - (1 - confidence) / 2, counts + 1, np.maximum(runs - counts, 1e-9)))

    def outside(share: float) -> float:
        """With the threshold at ``share`` of the way from the one world's mean to the other's."""
        alarm, miss = stats.norm.sf(share * mu), stats.norm.sf((1 - share) * mu)
        seen = stats.binom.pmf(counts, runs, alarm)
        above = stats.binom.cdf(np.searchsorted(-quantiles, quantiles - high) - 1, runs, miss)
        below = stats.binom.sf(np.searchsorted(-quantiles, quantiles - low, side="right") - 1, runs, miss)
        return float(seen @ (above + below))

    return max(outside(share) for share in (0.4, 0.45, 0.5, 0.55, 0.6))


def main() -> None:
    """Print the totals by file, and of all."""
    tests = registered()
    for file in sorted({test.file for test in tests}):
        own = totals(test for test in tests if test.file == file)
        print(f"{file:50} system {figure(own['system']):8} seeded {figure(own['seeded'])}")
    print("all", {source: figure(rate) for source, rate in totals(tests).items()})


if __name__ == "__main__":
    main()
