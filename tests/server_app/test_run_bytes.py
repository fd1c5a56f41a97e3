"""Bytes of a whole run, expected: against many drawn runs, counted message by message."""

import random
from collections.abc import Collection

import pytest

from server_app.results.run_bytes import MessageSizes, expected_bytes

ROUNDS = 12
SUMS = [100 + 7 * number for number in range(ROUNDS)]


def counted(
    sizes: MessageSizes, rate: float, draw: random.Random, evaluated: Collection[int] = ()
) -> tuple[float, float]:
    """Up and down of one client in one run, as ``Downlink`` cuts its instructions."""
    up = down = 0.0
    last, known = 0, False
    for number in range(ROUNDS + 1):
        questions = [(number - 1, sizes.reply)] if number and draw.random() < rate else []
        questions += [(number, sizes.scores)] if number in evaluated else []
        for sums, reply in questions:
            up += reply
            down += sizes.instruction + (0 if known else sizes.assignment)
            known = True
            lacking = sizes.whole if sizes.sums is None else sum(sizes.sums[last:sums])
            down += min(sizes.whole, lacking)
            last = sums
    return up, down


@pytest.mark.parametrize("evaluated", [(), (0, 5, 10, 12)], ids=["", "evaluated"])
@pytest.mark.parametrize("rate", [0.1, 0.5, 1.0])
@pytest.mark.parametrize(
    "sizes",
    [
        MessageSizes(500, 60, 98_000, 350, sums=SUMS, scores=40),
        MessageSizes(500, 60, 98_000, 350),
    ],
    ids=["sums", "whole"],
)
def test_the_expectation_is_the_mean_over_runs(sizes: MessageSizes, rate: float, evaluated: tuple[int, ...]) -> None:
    draw = random.Random(1)
    runs = [counted(sizes, rate, draw, evaluated) for _ in range(20_000)]
    found = expected_bytes(sizes, ROUNDS, rate, evaluated=evaluated)
    assert found.up == pytest.approx(sum(up for up, _ in runs) / len(runs), rel=0.02)
    assert found.down == pytest.approx(sum(down for _, down in runs) / len(runs), rel=0.02)
    assert found.rounds_asked == pytest.approx(rate * ROUNDS)
    assert found.both == found.up + found.down


def test_in_every_round_each_sum_but_the_last_comes_once() -> None:
    sizes = MessageSizes(500, 60, 98_000, 350, sums=SUMS)
    found = expected_bytes(sizes, ROUNDS, 1.0, before=(70, 300))
    assert found.down == pytest.approx(ROUNDS * 60 + 350 + sum(SUMS[:-1]) + 300)
    assert found.up == ROUNDS * 500 + 70


def test_where_sums_are_larger_than_the_adapter_it_counts() -> None:
    sizes = MessageSizes(500, 60, 150, 350, sums=SUMS)
    assert expected_bytes(sizes, ROUNDS, 1.0).down < ROUNDS * (60 + 150) + 350 + 1


def test_nobody_asked_costs_nothing() -> None:
    found = expected_bytes(MessageSizes(500, 60, 98_000, 350, sums=[]), 0, 0.1)
    assert (found.up, found.down, found.per_round(found.both)) == (0.0, 0.0, 0.0)


def every_chance(sizes: MessageSizes, rounds: int, rate: float, evaluated: tuple[int, ...]) -> float:
    """Bytes down by all rounds in which a client may have been asked last: a square of their number."""
    down, chances = 0.0, {-1: 1.0}
    for number in range(rounds + 1):
        for last_sum, chance in ([(number - 1, rate)] if number else []) + (
            [(number, 1.0)] if number in evaluated else []
        ):
            for last, held in chances.items():
                lacking = sum((sizes.sums or [])[max(0, last) : last_sum])
                start = lacking if sizes.sums is not None and lacking <= sizes.whole else sizes.whole
                down += held * chance * (sizes.instruction + start + (sizes.assignment if last == -1 else 0))
            left = {last: held * (1 - chance) for last, held in chances.items() if chance < 1}
            chances = left | {last_sum: left.get(last_sum, 0.0) + chance}
    return down


@pytest.mark.parametrize("evaluated", [(), (0, 7, 90)], ids=["", "evaluated"])
@pytest.mark.parametrize("rate", [0.02, 0.6, 1.0])
@pytest.mark.parametrize("whole", [300, 2_000, 98_000])
def test_chances_that_are_put_together_change_nothing(whole: int, rate: float, evaluated: tuple[int, ...]) -> None:
    sums = [100 + number % 7 for number in range(120)]
    sizes = MessageSizes(500, 60, whole, 350, sums=sums)
    down = expected_bytes(sizes, 120, rate, evaluated=evaluated).down
    assert down == pytest.approx(every_chance(sizes, 120, rate, evaluated), rel=1e-9)


def test_a_long_run_takes_no_square_of_its_rounds() -> None:
    """Of 20,000 rounds it took a minute and a half, after the last one and without a word."""
    looks = 0

    def framing(size: int, known: bool) -> int:
        nonlocal looks
        looks += 1
        return 0

    expected_bytes(MessageSizes(500, 60, 98_000, 350, sums=[107] * 5_000, framing=framing), 5_000, 0.1)
    assert looks < 5_000 * 300
