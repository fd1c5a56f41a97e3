"""Who watches a site from outside, and a server that reads all messages but one: neither learns a coin, nor a code.

What takes time is compared, not the time: every call of the client's code, whatever its coin says. Measured seconds are
in ``benchmarks/secure_rounds.py``.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare

from client_app import answer as answering
from client_app import seat as seats
from client_app.node_config import PolicyRefusal
from client_app.seat import Seat
from common.config import ConfigError, RunConfig
from common.privacy.mechanism import ReleaseTerms
from common.secure import masks
from common.secure.directory import to_bitmap
from common.wire.assignment import Task
from common.wire.records import TRAIN, WireError, serialized_bytes
from common.wire.secure import SecureTask, bits_of
from tests.support.false_alarms import statistical
from tests.support.secure_client import Client, told

NOISE = ("privacy/noise.py", "privacy/norms.py")
ROOT = Path(answering.__file__).parents[1]
SIZE, BITS_SEEN = 50_000, 8
WIDE = ReleaseTerms(SIZE, 1.0, 2.0, "secure", 4, normalize=True)


# ------------------------------------------------------------------------------------------------ heads or tails


@contextmanager
def watched() -> Iterator[list[str]]:
    """The app's own calls, in order, one for several of a kind in a row: some go through what was answered before.

    Not those of the noise, whose number its own randomness decides.
    """
    calls: list[str] = []

    def note(frame: FrameType, event: str, _: Any) -> None:
        file = frame.f_code.co_filename
        if event == "call" and file.startswith((f"{ROOT}/client_app", f"{ROOT}/common")) and not file.endswith(NOISE):
            name = f"{file}:{frame.f_code.co_qualname}"
            if not calls or calls[-1] != name:
                calls.append(name)

    sys.setprofile(note)
    try:
        yield calls
    finally:
        sys.setprofile(None)


def seen(client: Client, number: int) -> tuple[int, tuple[str, ...]]:
    """What an observer gets of one answer: its length, and all that takes time."""
    content = client.instructed(told(number, rate=0.5))
    with watched() as calls:
        reply = client.asked(content, TRAIN)
    return serialized_bytes(reply), tuple(calls)


def of_coins(client: Client, monkeypatch: pytest.MonkeyPatch, *, work_on_tails: bool = True) -> list[set[Any]]:
    """What is seen of tails, and of heads, six times each; the first answer loads and charges what later ones have."""
    views: list[set[Any]] = [set(), set()]
    client.answers(told(1))
    for number in range(2, 14):
        heads = number % 2 == 1
        with monkeypatch.context() as patch:
            patch.setattr(answering, "lands_heads", lambda *_, heads=heads: heads)
            if not work_on_tails:  # the mutant: what tails need not do is not done
                patch.setattr(answering, "may_read_rows", lambda heads=heads: heads)
            views[heads].add(seen(client, number))
    return views


def test_what_an_observer_sees_of_heads_is_what_it_sees_of_tails(
    own: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    tails, heads = of_coins(own(), monkeypatch)
    assert tails == heads
    assert len(heads) == 1
    ((_, calls),) = heads
    assert sum("local_update" in call for call in calls) >= 1, "a gradient was computed"


def test_an_observer_tells_tails_that_skip_the_work(
    own: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    tails, heads = of_coins(own(), monkeypatch, work_on_tails=False)
    assert not tails & heads


def test_no_key_of_a_run_lets_tails_skip_the_work(own: Callable[..., Client], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a run's configuration says, a site refuses it or works; so it does with a quantum of its own."""
    client = own(answer_seconds=5.0)
    worked: list[bool] = []
    released, run = answering._released, dict(client.context.run_config)
    monkeypatch.setattr(answering, "lands_heads", lambda *_: False)
    monkeypatch.setattr(answering, "_released", lambda *args: worked.append(True) or released(*args))
    switches = {key: not value for key, value in RunConfig.parse({}).flat().items() if isinstance(value, bool)}
    numbers = {"privacy.sampling-rate": 0.01, "federation.max-in-flight": 1, "data.name": "demo", "seed": 9}
    answered = 0
    for number, change in enumerate([{key: value} for key, value in {**switches, **numbers}.items()], 1):
        client.context.run_config = {**run, **change}
        with suppress(PolicyRefusal, ConfigError, WireError):
            client.answers(told(number, rate=0.5))
            answered += 1
        assert len(worked) == answered
    assert answered >= len(numbers)


# ------------------------------------------------------------------------------------------ all messages but one


class Pair:
    """Two honest clients among four, as the server sees them that knows the others' secrets, and an exchange's codes.

    It is to tell whose code is whose: what the two sum up to is its own to know.
    """

    def __init__(self) -> None:
        self.secrets = {pair: os.urandom(32) for pair in ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3))}
        self.seats = [self.seat(own) for own in (0, 1)]

    def seat(self, own: int) -> Seat:
        others = [other for other in range(4) if other != own]
        return Seat(os.urandom(32), place=own, members=4, secrets=tuple(self.secret(own, other) for other in others))

    def secret(self, own: int, other: int) -> bytes:
        return self.secrets[min(own, other), max(own, other)]

    def exchange(self, number: int, codes: list[np.ndarray]) -> list[np.ndarray]:
        """Both messages of an exchange, with all masks taken off that the server knows."""
        task, everybody = Task(1, WIDE, "digest"), SecureTask(number, 1.0, 4, to_bitmap({0, 1, 2, 3}, 4))
        found, bits = [], bits_of(WIDE)
        for own, code in enumerate(codes):
            self.seats[own] = self.seats[own].entered(task, everybody)
            asked = seats.Asked.of(self.seats[own].asked)
            seeds = [(other, masks.seed_of(self.secret(own, other), asked.context)) for other in (2, 3)]
            known = masks.pair_masks(own, seeds, SIZE, bits)
            found.append(masks.masked(code, self.seats[own].masks() - known, bits))
        return found


def p_values(pair: Pair) -> list[float]:
    """Of what the server has beyond the sums: a message, and the difference of one client's in two exchanges.

    χ² against uniform of the upper and of the lower eight bits. The codes are constant: nothing else is uniform.
    """
    codes, bits = [np.full(SIZE, 900), np.full(SIZE, -250)], bits_of(WIDE)
    first, second = pair.exchange(1, codes), pair.exchange(2, codes)
    for messages in (first, second):
        assert (masks.centered(masks.total_of(messages, SIZE, bits), bits) == codes[0] + codes[1]).all()
    seen = [first[0], (first[0] - second[0]) & np.uint64((1 << bits) - 1)]
    high, low = np.uint64(bits - BITS_SEEN), np.uint64((1 << BITS_SEEN) - 1)
    parts = [part.astype(np.int64) for values in seen for part in (values >> high, values & low)]
    return [float(chisquare(np.bincount(part, minlength=1 << BITS_SEEN)).pvalue) for part in parts]


@statistical(4e-7, "system")
def test_a_server_that_reads_all_messages_but_one_has_the_sum_and_uniform_values() -> None:
    """Four χ² tests at 10⁻⁷ each; the sum, which it may know, is asserted exactly."""
    assert min(p_values(Pair())) > 1e-7


def no_mask_between_honest(patch: pytest.MonkeyPatch) -> None:
    original = seats.pair_masks
    patch.setattr(seats, "pair_masks", lambda own, seeds, *rest: original(own, [s for s in seeds if s[0] > 1], *rest))


def one_seed_for_all_exchanges(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(seats, "context_of", lambda *_: bytes(32))


def masks_of_even_numbers(patch: pytest.MonkeyPatch) -> None:
    original = masks._sum_of_streams
    patch.setattr(masks, "_sum_of_streams", lambda seeds, size, bits: original(seeds, size, bits) << np.uint64(1))


@pytest.mark.parametrize("mutant", [no_mask_between_honest, one_seed_for_all_exchanges, masks_of_even_numbers])
def test_masks_that_leak_are_found(
    mutant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    mutant(monkeypatch)
    assert min(p_values(Pair())) < 1e-12
