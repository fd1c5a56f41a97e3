"""One small codec of every kind and form, for the contract test."""

import torch
from torch import Tensor

from common.adapter import Layout
from common.codecs import (
    CONV,
    DENSE,
    BlockRows,
    Codec,
    GradientStatistics,
    HistoryCodec,
    IdentityCodec,
    LinearCodec,
    NeuralCodec,
    Rows,
    SubspaceCodec,
    TangentRows,
    TuckerRows,
)
from common.codecs.allocation import FORMS
from common.codecs.autoencoder import Architecture

LAYOUT = Layout.of({"0.a": (4, 16), "0.b": (16, 4), "1.a": (4, 24), "1.b": (24, 4), "odd": (37,)})
STATISTICS = GradientStatistics(
    mean=torch.tensor([0.0, 0.5, -0.25, 0.125, 1.0]), std=torch.tensor([1.0, 2.0, 0.5, 4.0, 0.0])
)


def linear(form: str = "global", size: int = 23, seed: int = 5) -> LinearCodec:
    return LinearCodec.of_form(LAYOUT, size, seed, form=form, statistics=STATISTICS)


def past(seed: int = 9) -> Tensor:
    """A history that says nothing of the second tensor and most of the fourth."""
    scales = LAYOUT.expand(torch.tensor([1.0, 0.0, 0.5, 4.0, 2.0]))
    return scales * torch.randn(LAYOUT.size, generator=torch.Generator().manual_seed(seed))


def led(history: Tensor, rows: int = 3, size: int = 23) -> HistoryCodec:
    return HistoryCodec(LAYOUT, history, rows=rows, size=size, seed=5)


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


class Parabolas:
    """A toy model: a loss is the sum over its sequences of (u . v)^2 / 2 at adapter v, u drawn from the tokens."""

    def push(self, point: Tensor, tokens: Tensor, spans: Tensor, direction: Tensor) -> Tensor:
        return self.slopes(point, tokens) @ direction

    def pull(self, point: Tensor, tokens: Tensor, spans: Tensor, weights: Tensor) -> Tensor:
        return self.slopes(point, tokens).T @ weights

    def slopes(self, point: Tensor, tokens: Tensor) -> Tensor:
        rows = []
        for sequences in tokens:
            us = [gaussian(LAYOUT.size, seed=int(sequence.sum())) for sequence in sequences]
            rows.append(torch.stack([(u @ point) * u for u in us]).sum(0))
        return torch.stack(rows)


def gaussian(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def orthonormal(count: int, size: int, seed: int) -> Tensor:
    return torch.linalg.qr(gaussian(size, count, seed=seed)).Q.T.contiguous()


def blocks() -> BlockRows:
    """Three rows over all tensors of layer 0, two over those of layer 1."""
    table = torch.tensor([[0, 128, 3], [128, 192, 2]])
    return BlockRows(LAYOUT, table, torch.cat([orthonormal(3, 128, 1).flatten(), orthonormal(2, 192, 2).flatten()]))


def tucker() -> TuckerRows:
    """Two directions of every long side; five rows over the cores of 34 values."""
    sides = [orthonormal(2, side, index) for index, side in enumerate((16, 16, 24, 24, 37))]
    return TuckerRows(LAYOUT, 2, torch.cat([side.flatten() for side in sides]), orthonormal(5, 34, 9))


def tangents() -> TangentRows:
    """Five rows out of eight losses of two sequences each, orthonormal under the toy model."""
    tokens = torch.arange(8 * 2 * 3, dtype=torch.int32).view(8, 2, 3)
    point = gaussian(LAYOUT.size, seed=4)
    basis = torch.linalg.qr(Parabolas().slopes(point, tokens).double().T)
    weights = torch.linalg.inv(basis.R)[:, :5].float()
    return TangentRows(LAYOUT, point, tokens, torch.ones(8, 2, 2, dtype=torch.int32), weights)


def subspace(rows: Rows) -> SubspaceCodec:
    scales = torch.linspace(2.0, 0.5, rows.size)
    return SubspaceCodec(LAYOUT, rows, scales).bound(Parabolas())


SEEDED = {f"linear-{form}": linear(form) for form in FORMS}
OTHERS: dict[str, Codec] = {
    "identity": IdentityCodec(LAYOUT),
    "dense": neural(DENSE, 23),
    "conv": neural(CONV, 2),
}
HISTORIES = {"history-none": led(torch.zeros(LAYOUT.size)), "history-past": led(past())}
ROWS: dict[str, Rows] = {"blocks": blocks(), "tucker": tucker(), "tangents": tangents()}
SUBSPACES = {f"subspace-{name}": subspace(rows) for name, rows in ROWS.items()}
CODECS: dict[str, Codec] = {**SEEDED, **OTHERS, **HISTORIES, **SUBSPACES}
