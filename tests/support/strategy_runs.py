"""Strategies of tiny runs: how tests make them, break their clients and choose their cohorts."""

from collections.abc import Callable
from typing import Any

from flwr.app import Error, Message

from server_app.strategies import STRATEGIES
from server_app.strategies.base import FederatedAdapter
from workbench.simulation.in_process import InProcessGrid

VARIANTS: dict[str, dict[str, Any]] = {
    **{name: {"strategy.name": name} for name in STRATEGIES},
    "dr-encoder, conv": {"strategy.name": "dr-encoder", "codec.kind": "conv", "codec.size": 0, "codec.depth": 2},
    "dr-encoder, trained": {"strategy.name": "dr-encoder", "codec.form": "trained"},
    "fedcg, private": {"strategy.name": "fedcg", "fedcg.private": True},
    "fedlpp, 1 bit": {"strategy.name": "fedlpp", "fedlpp.bits": 1},
    "fedlpp, 3 bits": {"strategy.name": "fedlpp", "fedlpp.bits": 3},
    "fedlpp, at random, compressed": {
        "strategy.name": "fedlpp",
        "fedlpp.rounding": "stochastic",
        "fedlpp.compress": True,
    },
    "lora, A frozen": {"strategy.name": "lora", "lora.freeze-a": True},
    "public-prior, per layer": {"strategy.name": "public-prior", "public-prior.form": "per-layer"},
    "public-prior, Tucker": {"strategy.name": "public-prior", "public-prior.form": "tucker"},
    "public-prior, rebuilt": {"strategy.name": "public-prior", "public-prior.delivery": "rebuild"},
    "public-prior, random rows": {"strategy.name": "public-prior", "public-prior.random-rows": 16},
    "random-projection, mixed": {"strategy.name": "random-projection", "codec.transform": "mixed-buckets"},
}
"""Every registered strategy as it is by default (fedlpp with 2 bits), and with the options that change what travels."""

Make = Callable[..., tuple[FederatedAdapter, InProcessGrid]]


def rounds_of(strategy: FederatedAdapter) -> list[Any]:
    found: list[Any] = strategy.rounds  # type: ignore[attr-defined]
    return found


class Faulty(InProcessGrid):
    """Some nodes raise, some never answer; ``until`` is the last round in which they do so."""

    raising: set[int]
    silent: set[int]
    until: int

    def answer(self, message: Message) -> Message | None:
        node = message.metadata.dst_node_id
        broken = int(message.metadata.group_id) <= self.until
        if broken and node in self.silent:
            return None
        reply = super().answer(message)
        error: Any = Error(0, "MemoryError: node has no memory left")
        return Message(error, reply_to=message) if broken and node in self.raising else reply


def faulty(grid: InProcessGrid, raising: set[int], silent: set[int], until: int = 99) -> InProcessGrid:
    grid.__class__ = Faulty
    grid.raising, grid.silent, grid.until = raising, silent, until  # type: ignore[attr-defined]
    return grid


NOISY: dict[str, Any] = {
    "privacy.epsilon": 0.0,
    "privacy.noise-multiplier": 2.0,
    "privacy.trust": "local",
    "federation.min-reply-rate": 0.5,
}
