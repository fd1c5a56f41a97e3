"""Plain federated LoRA: the whole gradient is the code. With noise it is DP-FedAvg on the adapter."""

from common.adapter import Layout
from common.codecs.identity import IdentityCodec
from common.config import RunConfig
from server_app.strategies.base import FederatedAdapter
from server_app.strategies.recipe import Recipe


class Lora(FederatedAdapter):
    """Clients send their LoRA gradient uncompressed; there is no stage 1."""

    @classmethod
    def recipe_for(cls, config: RunConfig, layout: Layout) -> Recipe:
        """The identity on the adapter."""
        return Recipe.of(layout, IdentityCodec(layout))
