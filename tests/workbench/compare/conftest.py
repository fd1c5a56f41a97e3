"""What tests of comparisons share."""

import pytest

from tests.support.timed_workers import Clock
from workbench.compare import estimate, session


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Time that passes only when a worker says so."""
    found = Clock()
    for module in (estimate, session):
        monkeypatch.setattr(module, "time", found)
    return found
