"""The estimate of the time that is left."""

import pytest

from server_app.results import console as progress
from server_app.results.console import Stopwatch


class Clock:
    """Stands in for ``time``."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


@pytest.mark.parametrize(("first", "elapsed"), [(1, 0.0), (9, 500.0)])
def test_start_up_and_stage_1_are_not_taken_for_a_round(clock: Clock, first: int, elapsed: float) -> None:
    """In a fresh run and in a resumed one; rounds take 3 s and .5 s more to save."""
    watch = Stopwatch(25, elapsed)
    clock.now += 70.0
    lefts = []
    for server_round in range(first, 26):
        clock.now += 3.5
        watch.lap()
        lefts.append(watch.left(server_round, 3.0))
    assert lefts[0] == pytest.approx(3.0 * (25 - first))
    assert lefts[1:] == pytest.approx([3.5 * (25 - server_round) for server_round in range(first + 1, 26)])
    assert lefts[-1] == 0
    assert watch.elapsed == pytest.approx(elapsed + 70.0 + 3.5 * (26 - first))


def test_the_pace_is_that_of_the_last_ten_rounds(clock: Clock) -> None:
    watch = Stopwatch(100)
    for seconds in [20.0] * 5 + [2.0] * 10:
        clock.now += seconds
        watch.lap()
    assert watch.left(15, 2.0) == pytest.approx(2.0 * 85)
