"""What can be told of a run's noise before it begins: how far it moves the adapter by itself."""

import math

from common.config import ServerConfig
from server_app.privacy.plan import PrivacyPlan
from server_app.strategies.recipe import Recipe

LIMIT = 4.0
"""Lengths of the fresh adapter: on a real model runs still learned at 4.1 of them and were lost at 5.8."""


def noise_drift(server: ServerConfig, plan: PrivacyPlan, recipe: Recipe) -> float:
    """Expected l2 norm of all rounds' noise in the adapter, with the plain server optimizer (``sgd``).

    A decoded code has the length of the code, and the step factor makes both signal and noise of one length again; over
    T rounds of fresh noise the norm grows with √T.
    """
    each = server.learning_rate * recipe.step_factor * plan.mean_noise(recipe.code_size)
    return each * plan.privacy.clip_norm * math.sqrt(recipe.code_size * plan.rounds)


def expectation(server: ServerConfig, plan: PrivacyPlan, recipe: Recipe, length: float) -> str:
    """One line for people, ``""`` where nothing is known; ``length``: l2 norm of the fresh adapter."""
    if server.optimizer != "sgd" or not plan.round.noise_multiplier or length <= 0:
        return ""
    drift = noise_drift(server, plan, recipe)
    said = f"expected: noise alone moves the adapter by {drift:.3g}, {drift / length:.2g} times its length at the start"
    if drift > LIMIT * length:
        return f"{said}; above {LIMIT:g} runs were lost: a smaller server.learning-rate, or more clients or epsilon"
    return f"{said} (runs were lost above {LIMIT:g})"
