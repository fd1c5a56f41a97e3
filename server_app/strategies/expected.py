"""What can be told of a run's noise before it begins: how far it moves the adapter by itself."""

import math

import torch

from common.codecs.base import Codec
from common.config import ServerConfig
from server_app.privacy.plan import PrivacyPlan
from server_app.strategies.recipe import Recipe

LIMIT = 4.0
"""Lengths of the fresh adapter: on a real model runs still learned at 4.1 of them and were lost at 5.8."""


_DRAWS = 8


def noise_drift(server: ServerConfig, plan: PrivacyPlan, recipe: Recipe, codec: Codec | None = None) -> float:
    """Expected l2 norm of all rounds' noise in the adapter, with the plain server optimizer (``sgd``).

    Decoded by directions that are orthonormal a code keeps its length, and the step factor makes both signal and noise
    of one length again; over T rounds of fresh noise the norm grows with √T. What a learned ``codec`` makes of noise is
    measured; what it makes of no signal at all is the same in every round and grows with T.
    """
    std, size = plan.mean_noise(recipe.code_size) * plan.privacy.clip_norm, recipe.code_size
    spread, steady = size * std**2, 0.0
    if codec is not None:
        noise = std * torch.randn((_DRAWS, size), generator=torch.Generator().manual_seed(0))
        decoded = torch.stack([codec.decode(code) for code in noise])
        spread = float(decoded.var(dim=0).sum())
        steady = max(0.0, float(decoded.mean(dim=0).square().sum()) - spread / _DRAWS)
    return server.learning_rate * recipe.step_factor * math.sqrt(plan.rounds * spread + plan.rounds**2 * steady)


def expectation(
    server: ServerConfig, plan: PrivacyPlan, recipe: Recipe, length: float, codec: Codec | None = None
) -> str:
    """One line for people, ``""`` where nothing is known; ``length``: l2 norm of the fresh adapter.

    Of a codec that is learned nothing is known before there is one.
    """
    if server.optimizer != "sgd" or recipe.learned != (codec is not None) or not plan.round.noise_multiplier:
        return ""
    if length <= 0:
        return ""
    drift = noise_drift(server, plan, recipe, codec)
    said = f"expected: noise alone moves the adapter by {drift:.3g}, {drift / length:.3g} times its length at the start"
    if drift > LIMIT * length:
        return f"{said}; above {LIMIT:g} runs were lost: a smaller server.learning-rate, or more clients or epsilon"
    return f"{said} (runs were lost above {LIMIT:g})"
