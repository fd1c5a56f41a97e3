"""All statistical tests together: their totals hold, and docs/privacy.md says the same."""

import math
import re
from pathlib import Path

import numpy as np
import pytest

from tests.support.audit import mu_lower_bound
from tests.support.false_alarms import (
    Statistical,
    audit_outside,
    beyond,
    correlation_beyond,
    count_outside,
    figure,
    registered,
    rms_outside,
    statistical,
    totals,
)

LIMIT = 1e-3
"""On what all of them together may fail by chance: a run of the tests, and a run on fresh seeds."""

PAGE = Path(__file__).parents[1] / "docs" / "privacy.md"


@pytest.fixture(scope="module")
def marked() -> list[Statistical]:
    return registered()


@pytest.mark.parametrize("source", ["system", "seeded"])
def test_all_together_hardly_ever_fail_by_chance(marked: list[Statistical], source: str) -> None:
    """On the system's randomness whenever the tests run; with that on the seeded ones too, if all seeds were fresh."""
    found = totals(marked)
    assert 0 < (found["system"] if source == "system" else sum(found.values())) < LIMIT


def test_no_rate_hides_in_a_file_that_the_page_does_not_list(marked: list[Statistical]) -> None:
    """Each row's figures are those of the files that it names, and the rows name every file."""
    seen: set[str] = set()
    section = PAGE.read_text().split("## What the tests would catch")[1].split("\n## ")[0]
    for row in re.findall(r"^\| .*`tests/.*\|$", section, re.MULTILINE):
        tests, _, *figures = (cell.strip() for cell in row.strip("|").split("|"))
        files = set(re.findall(r"`(tests/[\w/]+\.py)`", tests))
        own = totals(test for test in marked if test.file in files)
        assert figures == [figure(own["system"]), figure(own["seeded"])], row
        seen |= files
    assert {test.file for test in marked} <= seen
    whole = totals(marked)
    assert f"{figure(whole['system'])} in all" in section
    assert f"{figure(sum(whole.values()))} with fresh seeds" in section


def test_the_rates_are_those_of_the_laws() -> None:
    assert beyond(1.959964, 3) == pytest.approx(0.15, rel=1e-5)
    assert rms_outside((3.940299 / 10) ** 0.5, (18.307038 / 10) ** 0.5, 10) == pytest.approx(0.1, rel=1e-5)
    assert count_outside(2, 8, 10, 0.5) == pytest.approx(22 / 1024)
    assert correlation_beyond(0.632, 10) == pytest.approx(0.05, rel=2e-3)  # the tables' critical value
    assert [figure(rate) for rate in (0.0, 1e-5, 2.1e-5, 9.2e-5)] == ["-", "1·10⁻⁵", "3·10⁻⁵", "1·10⁻⁴"]


@statistical(beyond(5, 2), "seeded")
def test_the_audits_rate_is_that_of_the_audit() -> None:
    """600 audits of 300 runs at a level that often fails, on either side: each share within 5 standard errors."""
    generator = np.random.default_rng(1)
    found = np.array(
        [mu_lower_bound(lambda there: float(generator.normal() + there), 0.5, 300, 0.5) for _ in range(600)]
    )
    for low, high in ((0.8, 9.0), (-9.0, 1.0)):
        share, expected = float(np.mean((found < low) | (found > high))), audit_outside(1.0, low, high, 300, 0.5)
        assert 0.05 < expected < 0.5
        assert abs(share - expected) < 5 * math.sqrt(expected * (1 - expected) / 600)
