"""Random projection: a seeded orthonormal subspace carries every gradient; nothing is learnt, there is no stage 1."""

from common.adapter import Layout
from common.codecs.allocation import BLIND_FORMS
from common.codecs.base import Codec
from common.codecs.linear import LinearCodec
from common.config import CodecConfig, ConfigError, RunConfig
from server_app.strategies.base import FederatedAdapter
from server_app.strategies.recipe import Recipe, check_size


class RandomProjection(FederatedAdapter):
    """DR-Encoder's stage 2 alone: the whole budget goes to the rounds, redrawn every ``codec.refresh-every``."""

    @classmethod
    def recipe_for(cls, config: RunConfig, layout: Layout) -> Recipe:
        """The seeded codec as configured; it draws nothing before it is used."""
        return Recipe.of(layout, _codec(config.codec, config.seed, layout))


def _codec(codec: CodecConfig, seed: int, layout: Layout) -> Codec:
    """The linear codec of ``codec.*``, of a form that needs no statistics, since nobody was asked for any.

    Raises ``ConfigError`` for another kind or form, and for a size that the adapter cannot have.
    """
    if codec.kind != "linear":
        raise ConfigError(f'codec.kind = "{codec.kind}": strategy random-projection needs "linear"')
    if codec.form not in BLIND_FORMS:
        raise ConfigError(
            f'codec.form = "{codec.form}": strategy random-projection asks nobody for the statistics that this '
            f"form is made of; allowed: {', '.join(BLIND_FORMS)}"
        )
    check_size(codec, layout)
    try:
        return LinearCodec.of_form(layout, codec.size, seed, form=codec.form)
    except ValueError as error:
        raise ConfigError(str(error)) from error
