"""The page to read first runs, spends what it says, and teaches."""

import re

import pytest

from examples import algorithm


def test_the_paper_on_one_page_runs_and_stays_within_its_budget(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Few clients, few rounds and a large budget: enough to see that the loops learn."""
    small = {"CLIENTS": 40, "RATE": 0.5, "ROUNDS": 6, "EPSILON": 18.0, "DELTA": 1e-3, "SHARES": 40}
    for name, value in small.items():
        monkeypatch.setattr(algorithm, name, value)
    algorithm.main()
    found = capsys.readouterr().out
    spent = float(re.search(r"epsilon ([\d.]+) at", found).group(1))  # type: ignore[union-attr]
    before, after = (float(value) for value in re.findall(r"([\d.]+)%", found))
    assert 17 < spent <= 18
    assert after > before + 5
