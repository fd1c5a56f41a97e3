"""FedCG's AutoEncoder: Algorithm 1's training on real gradients in place of synthetic ones."""

from time import perf_counter

import torch
from torch import Tensor

from common.adapter import Layout
from common.codecs.base import Codec
from common.codecs.dense import DENSE
from server_app.priors.synthetic import (
    PriorReport,
    PriorSettings,
    check_trained,
    reconstruction_quality,
    train_autoencoder,
    train_conv,
)


class CollectedGradients:
    """Gradients that clients sent (shape ``[m, n]``; ``ValueError`` if none differs from zero), drawn with ``seed``."""

    def __init__(self, rows: Tensor, seed: int) -> None:
        self.rows = rows[rows.any(dim=1)]
        if not len(self.rows):
            raise ValueError("no collected gradient differs from zero")
        self._generator = torch.Generator(rows.device).manual_seed(seed)

    def sample(self, count: int) -> Tensor:
        """Draw ``count`` of them with replacement, shape ``[count, n]``."""
        return self.rows[torch.randint(len(self.rows), (count,), generator=self._generator, device=self.device)]

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.rows.device

    @property
    def rms(self) -> float:
        """Root of the mean square of a value."""
        return self.rows.square().mean().sqrt().item()

    @property
    def bound(self) -> float:
        """The largest magnitude."""
        return self.rows.abs().max().item()


def train_informed(layout: Layout, gradients: Tensor, settings: PriorSettings) -> tuple[Codec, PriorReport]:
    """Train FedCG's AutoEncoder on real gradients (shape ``[m, n]``); ``form`` is not read, linear is always trained.

    MSE relative to the batch's energy, by Adam. Codes are scaled so that the average gradient's has norm 1, about what
    a release is clipped to. ``quality`` is on the gradients it was trained on; beside it ``zeroed_norm``, the norm of
    what a code of zeros decodes to, over theirs, and ``zeroed_cosine``, its cosine with their mean: what the decoder
    knows by itself. Raises ``ValueError`` as ``train_prior`` does. Source: CG-FedLLM (arXiv 2405.13746), TGAP.
    """
    check_trained(layout, settings)
    collected = CollectedGradients(gradients, settings.seed)
    start = perf_counter()
    if settings.kind == "conv":
        codec, losses = train_conv(layout, settings, collected)
    else:
        codec, losses = train_autoencoder(DENSE, settings.size, layout, settings, collected, scale=collected.rms)
    codec = codec.rescaled(torch.stack([codec.encode(row).norm() for row in collected.rows]).mean().item())
    seconds = perf_counter() - start
    zeroed = codec.decode(torch.zeros(codec.size, device=collected.device))
    quality = reconstruction_quality(codec, collected.rows) | {
        "zeroed_norm": (zeroed.norm() / collected.rows.norm(dim=1).mean()).item(),
        "zeroed_cosine": torch.cosine_similarity(zeroed, collected.rows.mean(dim=0), dim=0, eps=1e-30).item(),
    }
    return codec, PriorReport(quality, seconds, codec.spec().nbytes, losses)
