"""DR-Encoder: a random prior learnt from gradient statistics (Algorithm 1), then private codes (Algorithm 2)."""

import numpy as np
import torch
from flwr.serverapp import Grid

from common.adapter import Layout
from common.codecs.allocation import FORMS
from common.codecs.base import Codec
from common.codecs.identity import IdentityCodec
from common.codecs.linear import LinearCodec
from common.codecs.statistics import GradientStatistics
from common.config import ConfigError, RunConfig
from common.scale_code import ScaleCode
from common.wire.records import STATISTICS
from server_app.priors.synthetic import PriorSettings, check_settings, code_size, train_prior
from server_app.privacy.stage_one import statistics_stage
from server_app.results.tracking import watched
from server_app.strategies.recipe import PlannedEncoder, Recipe, learned_encoder
from server_app.strategies.two_stage import TwoStage, prior_settings


class DrEncoder(TwoStage):
    """Two stages: the AutoEncoder is trained on synthetic gradients only, then carries every gradient of stage 2.

    Stage 1 is here; a round of stage 2 is what all strategies share: ``configure`` (draw the cohort, send), the
    client's half in ``client_app/release.py``, and Algorithm 2's server half, steps 1-4, in ``aggregate``.
    """

    message_type = STATISTICS
    wanted = "statistics"

    @classmethod
    def recipe_for(cls, config: RunConfig, layout: Layout) -> Recipe:
        """Stage 1 in private: the log-scale code of the stds; in the clear: a mean and a std for every LoRA factor.

        The convolution and the trained linear form are learnt; all other forms are drawn or computed.
        """
        settings = prior_settings(config.codec, config.seed, layout)
        try:
            check_settings(layout, settings)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        scales = ScaleCode.of(layout, config.stage_one)
        learned = settings.kind == "conv" or (settings.kind, settings.form) == ("linear", "trained")
        return Recipe(
            layout,
            code_size(layout, settings),
            learned_encoder(config.codec, layout) if learned else _drawn_encoder(settings, layout),
            stage_one=statistics_stage(
                config.stage_one, scales.size, open_size=2 * len(layout.tensors), clip_norm=scales.bound
            ),
            learned=learned,
            seeded=settings.kind == "linear" and settings.form in FORMS,
        )

    def prepare(self, grid: Grid) -> Codec:
        """Algorithm 1: collect statistics, draw synthetic gradients from them, train the AutoEncoder."""
        statistics = self._collect_statistics(grid)
        settings = prior_settings(self.config.codec, self.config.seed, self.layout)
        with watched("making the codec", self.hooks.on_attendance):
            codec, report = train_prior(self.layout, statistics, settings)
        self.state.prior = report.figures()
        return codec

    def quality_measured_on(self) -> str:
        """Draws of the prior that nothing was trained on."""
        return "synthetic gradients"

    def _collect_statistics(self, grid: Grid) -> GradientStatistics:
        """Algorithm 1, client side, steps 1-5, as a private release of its own (docs/privacy.md)."""
        found = self.collect(grid)
        if not found.terms.noise_multiplier:
            return _average(found.releases)
        noise_std = found.terms.noise_multiplier * found.terms.clip_norm
        total = found.total(self.randomness.noise(0))
        std = ScaleCode.of(self.layout, self.config.stage_one).decode(total, noise_std, found.expected)
        return GradientStatistics(torch.zeros_like(std), std)


def _drawn_encoder(settings: PriorSettings, layout: Layout) -> PlannedEncoder:
    """A seeded projection of the form, or the identity where there is no seed.

    Statistics change a byte of it only where they leave a tensor without a value of the code.
    """
    if settings.kind != "linear" or settings.form not in FORMS:
        return PlannedEncoder(IdentityCodec(layout).spec())
    codec = LinearCodec.of_form(layout, settings.size, settings.seed, form=settings.form)
    return PlannedEncoder(codec.spec())


def _average(releases: list[np.ndarray]) -> GradientStatistics:
    """Root mean square of the clients' stds; means, below 1 % of these on real gradients, count as zero."""
    _, std = torch.from_numpy(np.stack(releases)).chunk(2, dim=1)
    return GradientStatistics(torch.zeros(std.shape[1]), std.square().mean(dim=0).sqrt())
