"""What an encoder will weigh on the wire, before there is one: ``dr-encoder plan`` asks every strategy."""

from dataclasses import dataclass

import torch

from common.adapter import Layout
from common.codecs.allocation import FORMS
from common.codecs.autoencoder import NeuralEncoder
from common.codecs.base import EncoderSpec
from common.codecs.conv import CONV
from common.codecs.dense import DENSE
from common.codecs.identity import IdentityCodec
from common.codecs.linear import LinearCodec
from common.config import RunConfig


@dataclass(frozen=True)
class PlannedEncoder:
    """An encoder as large as a run's: its specification, and bytes of weights that are too many to be made for it."""

    spec: EncoderSpec
    other_bytes: int = 0


def whole(layout: Layout) -> PlannedEncoder:
    """The identity: nothing but its name travels."""
    return PlannedEncoder(IdentityCodec(layout).spec())


def drawn(config: RunConfig, layout: Layout, size: int) -> PlannedEncoder:
    """A seeded projection of ``codec.*``, or the identity for a codec that has no seed."""
    codec = config.codec
    if codec.kind != "linear" or codec.form not in FORMS:
        return whole(layout)
    return PlannedEncoder(
        LinearCodec.of_form(layout, size, config.seed, form=codec.form, transform=codec.transform).spec()
    )


def learnt(config: RunConfig, layout: Layout, size: int) -> PlannedEncoder:
    """A trained AutoEncoder's half: the convolution, or a weight for every value of code and adapter."""
    codec = config.codec
    if codec.kind == "conv":
        network = CONV.encoder(layout.size, codec.depth)
        return PlannedEncoder(NeuralEncoder(layout, CONV, option=codec.depth, scale=1.0, encoder=network).spec())
    with torch.device("meta"):
        encoder = DENSE.encoder(layout.size, size)
    return PlannedEncoder(whole(layout).spec, sum(value.nbytes for value in encoder.state_dict().values()))
