"""Random projection: a seeded orthonormal subspace carries every gradient; nothing is learnt, there is no stage 1."""

from flwr.serverapp import Grid

from common.adapter import Layout
from common.codecs.base import Codec
from common.codecs.linear import LinearCodec
from common.config import ConfigError, RunConfig
from server_app.strategies.base import FederatedAdapter


class RandomProjection(FederatedAdapter):
    """DR-Encoder's stage 2 alone: the whole budget goes to the rounds, redrawn every ``codec.refresh-every``."""

    def prepare(self, grid: Grid) -> Codec:
        """The seeded codec as configured."""
        return seeded_codec(self.config, self.layout)


def seeded_codec(config: RunConfig, layout: Layout) -> Codec:
    """The linear codec of ``codec.*``; every tensor counts alike, since nobody was asked."""
    codec = config.codec
    if codec.kind != "linear":
        raise ConfigError(f'codec.kind = "{codec.kind}": strategy {config.strategy.name} needs "linear"')
    try:
        return LinearCodec.of_form(layout, codec.size, config.seed, form=codec.form, transform=codec.transform)
    except ValueError as error:
        raise ConfigError(str(error)) from error
