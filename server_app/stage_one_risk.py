"""What to say before a run whose stage 1 may well ask nobody."""

import math

from common.adapter import Layout
from common.config import RunConfig
from server_app.privacy_plan import PrivacyPlan
from server_app.strategies import STRATEGIES
from server_app.strategies.two_stage import TwoStage

_RARELY = 0.01  # an empty stage 1 is accepted when it is no more probable


def empty_stage_one(config: RunConfig, plan: PrivacyPlan, layout: Layout) -> str:
    """What to say when stage 1 asks nobody with a probability above 1 %, (1 - q)^M; else ``""``."""
    strategy = STRATEGIES[config.strategy.name]
    stage = strategy.stage_one(config, layout)
    if stage is None or not issubclass(strategy, TwoStage):
        return ""
    chance = (1 - stage.sampling_rate) ** plan.clients
    if chance <= _RARELY:
        return ""
    enough = math.ceil(1000 * (1 - _RARELY ** (1 / plan.clients))) / 1000
    private = plan.statistics is not None and plan.statistics.noise_multiplier > 0
    what = "its codec is then made of noise" if private else "it then fails"
    return (
        f"{strategy.rate_key} = {stage.sampling_rate:g} with {plan.clients} clients: stage 1 of a run asks nobody with "
        f"probability {chance:.2g}, and {what}; {enough:g} makes that rarer than {_RARELY:g}"
    )
