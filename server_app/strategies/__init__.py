"""The strategies by name. A new one is one file and one line here."""

from common.adapter import Layout
from common.config import ConfigError, RunConfig
from server_app.strategies.base import FederatedAdapter
from server_app.strategies.dr_encoder import DrEncoder
from server_app.strategies.fedcg import FedCg
from server_app.strategies.fedlpp import FedLpp
from server_app.strategies.history_prior import HistoryPrior
from server_app.strategies.lora import Lora
from server_app.strategies.public_prior import PublicPrior
from server_app.strategies.random_projection import RandomProjection
from server_app.strategies.recipe import Recipe

STRATEGIES: dict[str, type[FederatedAdapter]] = {
    "dr-encoder": DrEncoder,
    "fedcg": FedCg,
    "fedlpp": FedLpp,
    "history-prior": HistoryPrior,
    "lora": Lora,
    "public-prior": PublicPrior,
    "random-projection": RandomProjection,
}


def strategy_of(config: RunConfig) -> type[FederatedAdapter]:
    """The configured strategy; raises ``ConfigError`` for a name that is not registered."""
    name = config.strategy.name
    if name not in STRATEGIES:
        raise ConfigError(f'strategy.name = "{name}": registered are {", ".join(sorted(STRATEGIES))}')
    return STRATEGIES[name]


def recipe_of(config: RunConfig, layout: Layout) -> Recipe:
    """What the configured strategy is for an adapter; raises ``ConfigError`` where it could make no codec for it."""
    return strategy_of(config).recipe_for(config, layout)
