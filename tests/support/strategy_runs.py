"""Strategies of tiny runs: how tests make them, break their clients and choose their cohorts."""

from collections.abc import Callable
from typing import Any

from server_app.strategies import STRATEGIES
from server_app.strategies.base import FederatedAdapter

VARIANTS: dict[str, dict[str, Any]] = {
    **{name: {"strategy.name": name} for name in STRATEGIES},
    "dr-encoder, conv": {"strategy.name": "dr-encoder", "codec.kind": "conv", "codec.size": 0},
    "dr-encoder, trained": {"strategy.name": "dr-encoder", "codec.form": "trained"},
    "fedcg": {"strategy.name": "fedcg", "stage-one.private": False, "stage-one.learning-rate": 0.1},
    "fedcg, conv": {
        "strategy.name": "fedcg",
        "stage-one.private": False,
        "stage-one.learning-rate": 0.1,
        "codec.kind": "conv",
        "codec.size": 0,
    },
    "fedcg, private": {"strategy.name": "fedcg", "stage-one.private": True},
    "fedlpp, 1 bit": {"strategy.name": "fedlpp", "fedlpp.bits": 1},
    "fedlpp, 3 bits, at random": {"strategy.name": "fedlpp", "fedlpp.bits": 3, "fedlpp.rounding": "stochastic"},
    "lora, A frozen": {"strategy.name": "lora", "lora.freeze-a": True},
}
"""Every registered strategy as it is by default (fedlpp with 2 bits; fedcg's stage 1 in the clear), and with options
that change what travels."""

Make = Callable[..., tuple[FederatedAdapter, Any]]
"""Of changed keys, and optionally of the evaluation and the kind of grid: the strategy and its ``TinyGrid``."""


def rounds_of(strategy: FederatedAdapter) -> list[Any]:
    found: list[Any] = strategy.rounds  # type: ignore[attr-defined]
    return found


NOISY: dict[str, Any] = {
    "privacy.epsilon": 0.0,
    "privacy.noise-multiplier": 2.0,
    "privacy.trust": "local",
    "federation.min-reply-rate": 0.5,
}
