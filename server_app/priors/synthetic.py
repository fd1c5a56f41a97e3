"""Algorithm 1 of the paper, server side: an AutoEncoder from a random prior, without anybody's gradients.

The server knows one mean and one deviation per LoRA factor. From these it draws synthetic gradients, fits an
AutoEncoder to them and keeps the decoder. ``train_prior`` is the algorithm in the paper's order.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Protocol

import torch
from torch import Tensor, nn

from common.adapter import Layout
from common.codecs.allocation import FORMS
from common.codecs.autoencoder import Architecture, NeuralCodec
from common.codecs.base import Codec
from common.codecs.conv import CONV
from common.codecs.dense import DENSE
from common.codecs.identity import IdentityCodec
from common.codecs.linear import LinearCodec
from common.codecs.statistics import GradientStatistics
from server_app.results.tracking import tracked

LINEAR_FORMS = (*FORMS, "trained")
QUALITY_SAMPLES, QUALITY_VALUES = 64, 2**26
"""Quality is judged on at most so many synthetic gradients, and (beyond 2 of them) so many values."""


@dataclass(frozen=True)
class PriorSettings:
    """Which AutoEncoder, and how it is trained; ``steps`` to ``learning_rate`` are read by trained ones only.

    ``size`` 0 means the only possible one for kinds that leave no choice (identity: n; conv: what ``depth``
    gives). ``form`` is read by ``linear``, ``depth`` by ``conv``. An unknown name or a
    value out of range raises ``ValueError``.
    """

    kind: str
    form: str = "global"
    size: int = 0
    seed: int = 0
    steps: int = 300
    batch_size: int = 16
    learning_rate: float = 2e-4
    depth: int = 6

    def __post_init__(self) -> None:
        _allow("codec.kind", self.kind, tuple(_AUTOENCODERS))
        if self.kind == "linear":
            _allow("codec.form", self.form, LINEAR_FORMS)
        if self.steps < 1 or self.batch_size < 2 or not self.learning_rate > 0:
            found = f"steps = {self.steps}, batch_size = {self.batch_size}, learning_rate = {self.learning_rate}"
            raise ValueError(f"prior: {found}; allowed: at least 1, at least 2, positive")


@dataclass(frozen=True)
class PriorReport:
    """What became of Algorithm 1.

    ``losses``: relative reconstruction error ‖Dec∘Enc(Ĝ) - Ĝ‖² / ‖Ĝ‖² of each training batch, empty if
    nothing was trained. ``quality``: see ``reconstruction_quality``, on fresh synthetic gradients.
    ``encoder_bytes``: arrays of the encoder's spec.
    """

    quality: dict[str, float]
    seconds: float
    encoder_bytes: int
    losses: tuple[float, ...] = field(default=())

    def figures(self) -> dict[str, float]:
        """All of it as numbers by name, for the report; of the losses the first and the last."""
        losses = {"first_loss": self.losses[0], "last_loss": self.losses[-1]} if self.losses else {}
        return self.quality | {"encoder_bytes": float(self.encoder_bytes), "seconds": self.seconds} | losses


class Gradients(Protocol):
    """What an AutoEncoder is trained on."""

    def sample(self, count: int) -> Tensor:
        """Draw ``count`` gradients, shape ``[count, n]``."""

    @property
    def device(self) -> torch.device:
        """Where they are."""

    @property
    def rms(self) -> float:
        """Root of the mean square of a value."""

    @property
    def bound(self) -> float:
        """What (nearly) no magnitude exceeds."""


class SyntheticGradients:
    """Draws Ĝ ~ N(m, s), coordinates independent (Algorithm 1, server step 1), on the device of ``mean``."""

    def __init__(self, layout: Layout, mean: Tensor, std: Tensor, seed: int) -> None:
        GradientStatistics(mean, std).check(layout)
        self._mean = layout.expand(mean.detach().cpu().float()).to(mean.device)
        self._std = layout.expand(std.detach().cpu().float()).to(mean.device)
        self._generator = torch.Generator(mean.device).manual_seed(seed)

    def sample(self, count: int) -> Tensor:
        """Draw ``count`` new gradients, shape ``[count, n]``."""
        noise = torch.randn(count, len(self._mean), generator=self._generator, device=self.device)
        return noise.mul_(self._std).add_(self._mean)

    @property
    def device(self) -> torch.device:
        """Where the gradients are drawn."""
        return self._mean.device

    @property
    def rms(self) -> float:
        """Root of the expected mean square of a value."""
        return (self._mean.square() + self._std.square()).mean().sqrt().item()

    @property
    def bound(self) -> float:
        """Largest |m| + 4s: all but 1 in 15,000 values of the widest tensor lie within it."""
        return (self._mean.abs() + 4 * self._std).max().item()


def train_prior(layout: Layout, statistics: GradientStatistics, settings: PriorSettings) -> tuple[Codec, PriorReport]:
    """Run Algorithm 1, server side.

    Args:
        layout: the adapter, n values in n_t tensors.
        statistics: what the clients sent, combined: shape ``[n_t]`` each.
        settings: which AutoEncoder.

    Returns:
        The codec, whose ``spec()`` is all that clients get, and a report.

    Raises:
        ValueError: settings or statistics that do not suit the adapter; the message names the key.

    """
    statistics.check(layout)
    check_settings(layout, settings)
    start = perf_counter()
    # 1: Generate the synthetic gradients: Ĝ ~ N(m, s).
    synthetic = SyntheticGradients(layout, statistics.mean, statistics.std, settings.seed)
    # 2: Train the AutoEncoder with synthetic gradients: min ‖Dec∘Enc(Ĝ) - Ĝ‖.
    codec, losses = _AUTOENCODERS[settings.kind](layout, statistics, settings, synthetic)
    seconds = perf_counter() - start
    # 3: Send Enc to all clients: the caller sends codec.spec().
    samples = synthetic.sample(max(2, min(QUALITY_SAMPLES, QUALITY_VALUES // layout.size)))
    quality = reconstruction_quality(codec, samples)
    return codec, PriorReport(quality, seconds, codec.spec().nbytes, losses)


def check_settings(layout: Layout, settings: PriorSettings) -> None:
    """Refuse, with a ``ValueError``, a code that ``train_prior`` could make for no statistics of this adapter."""
    if settings.kind == "identity":
        _check_only_size(settings, layout.size)
    elif settings.kind == "linear" and settings.form != "trained":
        LinearCodec.of_form(layout, settings.size, settings.seed, form=settings.form)  # draws nothing yet
    else:
        check_trained(layout, settings)


def check_trained(layout: Layout, settings: PriorSettings) -> None:
    """The same for AutoEncoders that are trained, whatever ``form`` says: ``conv``, and a dense one for ``linear``."""
    if settings.kind == "conv":
        _check_only_size(settings, CONV.code_size(layout.size, settings.depth))
    else:
        DENSE.code_size(layout.size, settings.size)


def code_size(layout: Layout, settings: PriorSettings) -> int:
    """Values in a code of what ``settings`` describe, which ``check_settings`` or ``check_trained`` has let pass."""
    if settings.kind == "conv":
        return CONV.code_size(layout.size, settings.depth)
    return settings.size or layout.size


@torch.no_grad()
def reconstruction_quality(codec: Codec, gradients: Tensor) -> dict[str, float]:
    """Measure how much of real or synthetic gradients (shape ``[m, n]``) a codec keeps.

    Returns ``captured_energy``, the mean of 1 - ‖x - x̂‖²/‖x‖², and ``cosine``, the mean cosine of x and x̂
    (0 where x̂ = 0), over gradients that are not zero; ``ValueError`` if none is. Captured energy alone does
    not tell whether a codec learns: see docs/experiments.md.
    """
    if gradients.dim() != 2:
        raise ValueError(f"gradients have shape {tuple(gradients.shape)}, expected (m, {codec.dim})")
    energies, cosines = [], []
    for gradient in gradients:
        if not gradient.any():
            continue
        decoded = codec.decode(codec.encode(gradient))
        energies.append(1 - ((gradient - decoded).norm() / gradient.norm()).square().item())
        cosines.append(torch.cosine_similarity(gradient, decoded, dim=0, eps=1e-30).item())
    if not energies:
        raise ValueError("no gradient differs from zero")
    return {"captured_energy": sum(energies) / len(energies), "cosine": sum(cosines) / len(cosines)}


_Result = tuple[Codec, tuple[float, ...]]


def _identity(layout: Layout, _: GradientStatistics, __: PriorSettings, ___: SyntheticGradients) -> _Result:
    return IdentityCodec(layout), ()


def _linear(
    layout: Layout, statistics: GradientStatistics, settings: PriorSettings, synthetic: SyntheticGradients
) -> _Result:
    """Derive the seeded forms in closed form, train the other one."""
    if settings.form == "trained":
        return train_autoencoder(DENSE, settings.size, layout, settings, synthetic, scale=synthetic.rms)
    codec = LinearCodec.of_form(
        layout,
        settings.size,
        settings.seed,
        form=settings.form,
        statistics=statistics,
    )
    return codec, ()


def _conv(layout: Layout, _: GradientStatistics, settings: PriorSettings, synthetic: SyntheticGradients) -> _Result:
    return train_conv(layout, settings, synthetic)


_AUTOENCODERS: dict[str, Callable[[Layout, GradientStatistics, PriorSettings, SyntheticGradients], _Result]] = {
    "identity": _identity,
    "linear": _linear,
    "conv": _conv,
}


def train_autoencoder(
    architecture: Architecture,
    option: int,
    layout: Layout,
    settings: PriorSettings,
    gradients: Gradients,
    *,
    scale: float,
) -> tuple[NeuralCodec, tuple[float, ...]]:
    """Minimize ‖Dec∘Enc(Ĝ) - Ĝ‖² / ‖Ĝ‖² by Adam on newly drawn gradients in every step."""
    if scale == 0:
        raise ValueError("statistics are zero everywhere: no synthetic gradient differs from zero")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        encoder, decoder = (
            architecture.encoder(layout.size, option),
            architecture.decoder(layout.size, option),
        )
        if architecture.initialize:
            architecture.initialize(encoder, decoder)
    autoencoder = nn.Sequential(encoder, decoder).to(gradients.device).train()
    optimizer = torch.optim.Adam(autoencoder.parameters(), lr=settings.learning_rate)
    losses = []
    for _ in tracked(range(settings.steps), "training the AutoEncoder"):
        batch = gradients.sample(settings.batch_size).div_(scale)
        loss = (autoencoder(batch) - batch).square().sum() / batch.square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    codec = NeuralCodec(layout, architecture, option=option, scale=scale, encoder=encoder, decoder=decoder)
    return codec, tuple(losses)


def train_conv(layout: Layout, settings: PriorSettings, gradients: Gradients) -> tuple[NeuralCodec, tuple[float, ...]]:
    """FedCG's convolutional AutoEncoder, trained on ``gradients``; returns it with its losses."""
    return train_autoencoder(CONV, settings.depth, layout, settings, gradients, scale=gradients.bound)


def _allow(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{key} = '{value}' is unknown; allowed: {', '.join(allowed)}")


def _check_only_size(settings: PriorSettings, size: int) -> None:
    if settings.size not in (0, size):
        raise ValueError(
            f"codec.size = {settings.size} with codec.kind = '{settings.kind}'; allowed: {size}, or 0 for it"
        )
