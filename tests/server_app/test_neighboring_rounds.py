"""Neighboring rounds of every strategy, from ``configure`` through the clients to the adapter that comes out.

Neighbors under zero-out adjacency: in one world a client's contribution is replaced by zero (it releases the zero
code, or nothing comes from it), all else being equal. Not the zero gradient, whose code is a bias where the encoder is
learnt. Round 2 is looked at, so that the codec has been redrawn.
"""

import copy
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Message
from torch import Tensor

from client_app import app as client_module
from common.codecs.base import Encoder
from common.privacy import noise
from common.privacy.mechanism import ReleaseTerms, release
from common.privacy.noise import GridVector, RandomSource
from server_app.strategies import STRATEGIES, base
from tests.support.grids import TinyGrid, faulty
from tests.support.seeded import seed_randomness
from tests.support.strategy_runs import Make
from tests.support.tiny import CLIENTS, vectors

CLIP, RATE, TRIALS = 0.7, 0.9, 4
CHANGED = 4  # the node whose contribution is there or not
SETTING: dict[str, Any] = {
    "privacy.clip-norm": CLIP,
    "privacy.sampling-rate": RATE,
    "server.optimizer": "sgd",
    "server.learning-rate": 1.0,
}
ALL = set(range(1, CLIENTS + 1))
ORIGINAL, RELEASE = base.sum_releases, client_module.release_gradient


def release_nothing(_: Tensor, __: Encoder, terms: ReleaseTerms, source: RandomSource) -> Any:
    """The zero code, on its way as any other."""
    return release(torch.zeros(terms.size), terms, source)


class World(TinyGrid):
    """A grid whose clients have the gradients that they are given, but for those with nothing and those that fail."""

    gradients: Tensor
    without: frozenset[int] = frozenset()

    def answer(self, message: Message) -> Message | None:
        node = message.metadata.dst_node_id
        client_module.local_update = lambda *_: self.gradients[node - 1]  # type: ignore[assignment]
        client_module.release_gradient = release_nothing if node in self.without else RELEASE
        return super().answer(message)


class Rounds:
    """One strategy, the totals that its rounds decode, and a way to run the same round again."""

    def __init__(self, make: Make, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]) -> None:
        for name in ("local_update", "release_gradient"):
            monkeypatch.setattr(client_module, name, None)  # ``World`` sets them, and this takes them back
        monkeypatch.setattr(base, "poisson_sample", lambda nodes, *_: list(nodes))
        monkeypatch.setattr(base, "sum_releases", self.sum_releases)
        self.combined: list[tuple[Tensor, ReleaseTerms]] = []
        self.strategy, self.grid = make({**SETTING, **changes}, kind=World)
        self.strategy.state.codec = self.strategy.prepare(self.grid)
        self.run(1, vectors(CLIENTS, self.strategy.layout.size, 3))
        self.state = copy.deepcopy(self.strategy.state)

    def sum_releases(self, releases: Iterable[Any], terms: ReleaseTerms, source: RandomSource) -> Any:
        total = ORIGINAL(list(releases), terms, source)
        units = total * terms.grid_step if terms.noise_multiplier else total
        self.combined.append((torch.from_numpy(units.astype(np.float32)), terms))
        return total

    def run(self, number: int, gradients: Tensor, without: Iterable[int] = (), silent: Iterable[int] = ()) -> Tensor:
        """The round's step of the adapter."""
        self.grid.gradients, self.grid.without = gradients, frozenset(without)
        faulty(self.grid, raising=(), silent=silent)
        before = self.strategy.state.optimizer.adapter
        opened = self.strategy.configure(number, before)
        assert {message.metadata.dst_node_id for message in opened.messages} == ALL
        closed = self.strategy.aggregate(opened, self.grid.send_and_receive(opened.messages))
        assert len(closed.replies.failures) == len(set(silent)), closed.replies.failures
        return self.strategy.state.optimizer.adapter.double() - before.double()

    def second(self, gradients: Tensor, **missing: Iterable[int]) -> tuple[Tensor, Tensor]:
        """Round 2 from the same state: the step of the adapter, the total that was decoded."""
        self.strategy.state = copy.deepcopy(self.state)
        step = self.run(2, gradients, **missing)
        return step, self.combined[-1][0]


def gradients_of(trial: int, size: int) -> Tensor:
    """One gradient per client, of scales from about 1e-2 to 1e2."""
    return vectors(CLIENTS, size, 200 + trial) * 10 ** vectors(CLIENTS, 1, 100 + trial)


@pytest.mark.parametrize("clipping", ["normalize", "clip"])
@pytest.mark.parametrize("missing", ["without", "silent"])
@pytest.mark.parametrize("name", STRATEGIES)
def test_one_client_moves_what_is_decoded_by_the_clip_norm_over_the_expected_cohort(
    make: Make, monkeypatch: pytest.MonkeyPatch, name: str, missing: str, clipping: str
) -> None:
    """Noise off. The decoded code moves by C/(p M) at most (to float32), all else by a factor times what that gives."""
    rounds = Rounds(make, monkeypatch, {"strategy.name": name, "privacy.clipping": clipping})
    codec, expected, largest = rounds.strategy._codec_of(2), RATE * CLIENTS, 0.0
    factor = rounds.strategy.recipe.step_factor
    for trial in range(TRIALS):
        gradients = gradients_of(trial, codec.dim)
        step, total = rounds.second(gradients)
        other_step, other_total = rounds.second(gradients, **{missing: {CHANGED}})
        moved = (total - other_total).double() / expected
        assert moved.norm() <= CLIP / expected * (1 + 1e-5)
        decoded = factor * (codec.decode(total / expected) - codec.decode(other_total / expected)).double()
        torch.testing.assert_close(step - other_step, -decoded, rtol=1e-4, atol=1e-6)
        largest = max(largest, float(moved.norm()))
    assert largest > 0.99 * CLIP / expected, "the bound is reached, so the test can fail"


@pytest.mark.parametrize("trust", ["central", "distributed", "local"])
@pytest.mark.parametrize("name", STRATEGIES)
def test_under_the_same_noise_one_client_moves_the_total_by_the_clip_norm_in_exact_integers(
    make: Make, monkeypatch: pytest.MonkeyPatch, name: str, trust: str
) -> None:
    """Rounding to the grid stays inside the ball of B steps, so the bound on the squared norm is B², with no allowance.

    Rounding draws its bits from a source of its own here: it may take several attempts, after which a client's noise
    would be another.
    """
    original = noise.quantize

    def quantize(values: Any, bound: float, resolution: int, _: RandomSource) -> GridVector:
        return original(values, bound, resolution, RandomSource.insecure(17))

    monkeypatch.setattr(noise, "quantize", quantize)
    private = {"privacy.epsilon": 0.0, "privacy.noise-multiplier": 1.0}
    seed_randomness(monkeypatch, 3)
    rounds = Rounds(make, monkeypatch, {"strategy.name": name, "privacy.trust": trust, **private})
    largest = 0.0
    for trial in range(TRIALS):
        gradients = gradients_of(trial, rounds.strategy.layout.size)
        totals = [rounds.second(gradients, without=without)[1] for without in ((), {CHANGED})]
        terms = rounds.combined[-1][1]
        assert terms.noise_multiplier == 1.0
        in_steps = [(total.double() / terms.grid_step).round().long() for total in totals]
        assert all(values.abs().max() < 2**24 for values in in_steps), "or float32 would not hold the integers"
        assert all(values.abs().max() > terms.resolution for values in in_steps), "there is noise"
        moved = in_steps[0] - in_steps[1]
        assert int(moved @ moved) <= terms.resolution**2
        largest = max(largest, float(moved.double().norm()) / terms.resolution)
    assert largest > 0.98
