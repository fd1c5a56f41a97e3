"""One small codec of every kind, form and transform, for the contract test."""

import torch
from torch import Tensor

from common.adapter import Layout
from common.codecs import (
    CONV,
    DENSE,
    Codec,
    GradientStatistics,
    HistoryCodec,
    IdentityCodec,
    LinearCodec,
    NeuralCodec,
)
from common.codecs.allocation import FORMS
from common.codecs.autoencoder import Architecture
from common.codecs.transform import TRANSFORMS

LAYOUT = Layout.of({"0.a": (4, 16), "0.b": (16, 4), "1.a": (4, 24), "1.b": (24, 4), "odd": (37,)})
STATISTICS = GradientStatistics(
    mean=torch.tensor([0.0, 0.5, -0.25, 0.125, 1.0]), std=torch.tensor([1.0, 2.0, 0.5, 4.0, 0.0])
)


def linear(form: str = "global", transform: str = "buckets", size: int = 23, seed: int = 5) -> LinearCodec:
    return LinearCodec.of_form(LAYOUT, size, seed, form=form, transform=transform, statistics=STATISTICS)


def past(seed: int = 9) -> Tensor:
    """A history that says nothing of the second tensor and most of the fourth."""
    scales = LAYOUT.expand(torch.tensor([1.0, 0.0, 0.5, 4.0, 2.0]))
    return scales * torch.randn(LAYOUT.size, generator=torch.Generator().manual_seed(seed))


def led(history: Tensor, rows: int = 3, transform: str = "buckets", size: int = 23) -> HistoryCodec:
    return HistoryCodec(LAYOUT, history, rows=rows, size=size, transform=transform, seed=5)


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


SEEDED = {f"linear-{form}-{name}": linear(form, name) for form in FORMS for name in TRANSFORMS}
OTHERS: dict[str, Codec] = {
    "identity": IdentityCodec(LAYOUT),
    "dense": neural(DENSE, 23),
    "conv": neural(CONV, 2),
}
HISTORIES = {"history-none": led(torch.zeros(LAYOUT.size))} | {
    f"history-{name}": led(past(), transform=name) for name in TRANSFORMS
}
CODECS: dict[str, Codec] = {**SEEDED, **OTHERS, **HISTORIES}
