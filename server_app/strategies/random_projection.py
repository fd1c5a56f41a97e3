"""Random projection: a seeded orthonormal subspace carries every gradient; nothing is learnt, there is no stage 1."""

from flwr.serverapp import Grid

from common.codecs.base import Codec
from common.codecs.linear import LinearCodec
from common.config import ConfigError
from server_app.strategies.base import FederatedAdapter


class RandomProjection(FederatedAdapter):
    """DR-Encoder's stage 2 alone: the whole budget goes to the rounds, redrawn every ``codec.refresh-every``."""

    def prepare(self, grid: Grid) -> Codec:
        """The seeded codec as configured; every tensor counts alike, since nobody was asked."""
        codec = self.config.codec
        if codec.kind != "linear":
            raise ConfigError(f'codec.kind = "{codec.kind}": strategy random-projection needs "linear"')
        try:
            return LinearCodec.of_form(
                self.layout, codec.size, self.config.seed, form=codec.form, transform=codec.transform
            )
        except ValueError as error:
            raise ConfigError(str(error)) from error
