"""What a strategy is under one configuration, for one adapter: a value that is made once and asked ever after."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from common.adapter import Layout
from common.codecs.autoencoder import NeuralEncoder
from common.codecs.base import Codec, EncoderSpec
from common.codecs.conv import CONV, usual_depth
from common.codecs.dense import DENSE
from common.codecs.identity import IdentityCodec
from common.config import CodecConfig, ConfigError
from common.proxy import QuantizedAdapter
from server_app.privacy.stage_one import StageOne


@dataclass(frozen=True)
class PlannedEncoder:
    """An encoder as large as a run's: its specification, and bytes of weights that are too many to be made for it."""

    spec: EncoderSpec
    other_bytes: int = 0


@dataclass(frozen=True)
class Recipe:
    """What a strategy asks of clients, what it sends them, and what its codec is.

    Attributes:
        layout: the adapter, n values.
        code_size: k, values in a client's code.
        encoder: as large as what clients encode with.
        codec: the codec itself, where nothing has to be asked or learnt for it.
        stage_one: what clients are asked before round 1, which the privacy plan must pay for.
        learned: whether the codec is trained, so that its decoder may know something by itself and needs controls.
        keeps_length: whether the codec keeps most of a gradient's length, where random directions keep √(k/n) of it.
        proxy: something as large as what clients get in place of the adapter, where they get something else.
        seeded: whether clients can make the adapter of released sums (``Codec.seeded``), and may.
        refresh_every: rounds after which the codec is drawn anew, where it is drawn.

    """

    layout: Layout
    code_size: int
    encoder: PlannedEncoder
    codec: Codec | None = None
    stage_one: StageOne | None = None
    learned: bool = False
    keeps_length: bool = False
    proxy: QuantizedAdapter | None = None
    seeded: bool = False
    refresh_every: int = 1

    @classmethod
    def of(cls, layout: Layout, codec: Codec, *, proxy: QuantizedAdapter | None = None) -> "Recipe":
        """A strategy without a stage 1 whose first codec is ``codec``."""
        seeded = codec.seeded and proxy is None
        return cls(layout, codec.size, PlannedEncoder(codec.spec()), codec, proxy=proxy, seeded=seeded)

    @property
    def step_factor(self) -> float:
        """By what a decoded code is multiplied, so that ``server.learning-rate`` means the same for every codec.

        That key says how far along its gradient a client of code norm 1 moves the adapter if all clients agree. Of a
        gradient of n values a code of k random directions gives √(k/n) of the length back.
        """
        return 1.0 if self.keeps_length else math.sqrt(self.layout.size / self.code_size)

    @property
    def sends_whole(self) -> bool:
        """Whether a code is the adapter's own gradient."""
        return isinstance(self.codec, IdentityCodec)

    @property
    def stage_one_share(self) -> float:
        """Share of every client's examples that stage 1 has to itself; 0 where all stages use all of them."""
        return self.stage_one.share if self.stage_one else 0.0

    @property
    def broadcast(self) -> Tensor | QuantizedAdapter:
        """Something as large as what the clients of a round get for the adapter."""
        return torch.zeros(self.layout.size) if self.proxy is None else self.proxy


def learned_encoder(codec: CodecConfig, layout: Layout) -> PlannedEncoder:
    """The encoder of a trained AutoEncoder: the convolution, or a weight for every value of code and adapter."""
    if codec.kind == "conv":
        depth = usual_depth(layout.size)
        network = CONV.encoder(layout.size, depth)
        return PlannedEncoder(NeuralEncoder(layout, CONV, option=depth, scale=1.0, encoder=network).spec())
    with torch.device("meta"):
        encoder = DENSE.encoder(layout.size, codec.size)
    weights = sum(value.nbytes for value in encoder.state_dict().values())
    return PlannedEncoder(IdentityCodec(layout).spec(), weights)


def check_size(codec: CodecConfig, layout: Layout) -> None:
    """Raise ``ConfigError`` for a linear code that is larger than the adapter."""
    if codec.kind == "linear" and codec.size > layout.size:
        raise ConfigError(
            f"codec.size = {codec.size}: larger than the adapter, which has {layout.size} values (lora.rank, "
            "lora.target-modules); a code has at most as many values as what it encodes"
        )
