"""Plain federated LoRA: the whole gradient is the code. With noise it is DP-FedAvg on the adapter."""

from flwr.serverapp import Grid

from common.codecs.base import Codec
from common.codecs.identity import IdentityCodec
from common.config import RunConfig
from server_app.strategies.base import FederatedAdapter


class Lora(FederatedAdapter):
    """Clients send their LoRA gradient uncompressed; there is no stage 1."""

    @classmethod
    def sends_whole(cls, config: RunConfig) -> bool:
        """Always."""
        return True

    def prepare(self, grid: Grid) -> Codec:
        """The identity on the adapter."""
        return IdentityCodec(self.layout)
