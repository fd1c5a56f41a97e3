"""One small codec of every kind and form, for the contract test."""

import torch

from common.adapter import Layout
from common.codecs import (
    CONV,
    DENSE,
    Codec,
    GradientStatistics,
    IdentityCodec,
    LinearCodec,
    NeuralCodec,
)
from common.codecs.allocation import FORMS
from common.codecs.autoencoder import Architecture

LAYOUT = Layout.of({"0.a": (4, 16), "0.b": (16, 4), "1.a": (4, 24), "1.b": (24, 4), "odd": (37,)})
STATISTICS = GradientStatistics(
    mean=torch.tensor([0.0, 0.5, -0.25, 0.125, 1.0]), std=torch.tensor([1.0, 2.0, 0.5, 4.0, 0.0])
)


def linear(form: str = "global", size: int = 23, seed: int = 5) -> LinearCodec:
    return LinearCodec.of_form(LAYOUT, size, seed, form=form, statistics=STATISTICS)


def neural(architecture: Architecture, option: int) -> NeuralCodec:
    """Random weights; batch norms have seen data, so their running statistics are not the initial ones."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        encoder, decoder = (
            architecture.encoder(LAYOUT.size, option),
            architecture.decoder(LAYOUT.size, option),
        )
        decoder(encoder(torch.randn(8, LAYOUT.size)))
    return NeuralCodec(LAYOUT, architecture, option=option, scale=3.0, encoder=encoder, decoder=decoder)


SEEDED = {f"linear-{form}": linear(form) for form in FORMS}
OTHERS: dict[str, Codec] = {
    "identity": IdentityCodec(LAYOUT),
    "dense": neural(DENSE, 23),
    "conv": neural(CONV, 2),
}
CODECS: dict[str, Codec] = {**SEEDED, **OTHERS}
