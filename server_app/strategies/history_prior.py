"""History prior: the code's first directions are where the released adapter has been moving, the others random."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from flwr.app import Message

from common.adapter import Layout
from common.codecs.history import HistoryCodec
from common.config import ConfigError, RunConfig
from server_app.rounds.round import ClosedRound, OpenRound
from server_app.strategies.base import FederatedAdapter
from server_app.strategies.recipe import Recipe, check_size

DECAY = 0.95
"""Weight of the past in the decayed sum of released steps."""
ROWS = 32
"""Most code values for the history, one a tensor; a code of fewer leaves one for a random row."""


class HistoryPrior(FederatedAdapter):
    """``h <- DECAY * h + step`` over released steps: post-processing, so no privacy is spent on the prior."""

    @classmethod
    def recipe_for(cls, config: RunConfig, layout: Layout) -> Recipe:
        """No history yet: round 1 is a random projection. Later encoders hold the history's ``n`` values."""
        return replace(Recipe.of(layout, _first_codec(config, layout)), encoder_changes_every=1)

    def aggregate(self, opened: OpenRound, replies: Sequence[Message]) -> ClosedRound:
        """The round as ever, then the step that it took enters the history (and with the codec the checkpoint)."""
        before = self.state.optimizer.adapter
        closed = super().aggregate(opened, replies)
        if closed.steps and isinstance(self.codec, HistoryCodec):
            self.state.codec = self.codec.advance(self.state.optimizer.adapter - before, DECAY)
        return closed


def _first_codec(config: RunConfig, layout: Layout) -> HistoryCodec:
    """The codec of round 1; raises ``ConfigError`` where ``codec.*`` does not suit."""
    codec = config.codec
    if (codec.kind, codec.form) != ("linear", "global"):
        raise ConfigError(
            f'codec.kind = "{codec.kind}" and codec.form = "{codec.form}": strategy history-prior needs "linear" '
            'and "global"'
        )
    check_size(config.codec, layout)
    try:
        return HistoryCodec(
            layout,
            torch.zeros(layout.size),
            rows=min(ROWS, codec.size - 1),
            size=codec.size,
            seed=config.seed,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
