"""DR-Encoder: a random prior learnt from gradient statistics (Algorithm 1), then private codes (Algorithm 2)."""

from flwr.serverapp import Grid

from common.adapter import Layout
from common.codecs.base import Codec
from common.codecs.statistics import GradientStatistics
from common.config import ConfigError, RunConfig
from common.scale_code import ScaleCode
from common.wire import STATISTICS
from server_app.prior import check_settings, train_prior
from server_app.prior_settings import prior_settings
from server_app.prior_stage import combine_statistics
from server_app.privacy_plan import StageOne, statistics_stage
from server_app.strategies.two_stage import TwoStage


class DrEncoder(TwoStage):
    """Two stages: the AutoEncoder is trained on synthetic gradients only, then carries every gradient of stage 2.

    Stage 1 is here; a round of stage 2 is what all strategies share: ``configure_train`` (draw the cohort, send), the
    client's half in ``client_app/release.py``, and Algorithm 2's server half, steps 1-4, in ``aggregate_train``.
    """

    message_type = STATISTICS
    wanted, rate_key = "statistics", "statistics.sampling-rate"

    @classmethod
    def stage_one(cls, config: RunConfig, layout: Layout) -> StageOne:
        """Private: the log-scale code of the stds; in the clear: a mean and a std for every LoRA factor."""
        code = ScaleCode.of(layout, config.statistics)
        return statistics_stage(config, code.size, open_size=2 * len(layout.tensors), clip_norm=code.bound)

    @classmethod
    def learns_codec(cls, config: RunConfig) -> bool:
        """The convolution and the trained linear form; all other forms are drawn or computed, not learnt."""
        return config.codec.kind == "conv" or (config.codec.kind, config.codec.form) == ("linear", "trained")

    @classmethod
    def check(cls, config: RunConfig, layout: Layout) -> None:
        """The size must be one that the kind and the form have for this adapter."""
        try:
            check_settings(layout, prior_settings(config, layout))
        except ValueError as error:
            raise ConfigError(str(error)) from error

    def prepare(self, grid: Grid) -> Codec:
        """Algorithm 1: collect statistics, draw synthetic gradients from them, train the AutoEncoder."""
        statistics = self._collect_statistics(grid)
        codec, report = train_prior(self.layout, statistics, prior_settings(self.config, self.layout))
        self.state.prior = report.figures()
        return codec

    def gradients_measured(self) -> int:
        """Local steps of Algorithm 1's client side."""
        return self.config.statistics.steps

    def learning_rate_while_measured(self) -> float:
        """Size of the local steps."""
        return self.config.statistics.learning_rate

    def quality_measured_on(self) -> str:
        """Draws of the prior that nothing was trained on."""
        return "synthetic gradients"

    def _collect_statistics(self, grid: Grid) -> GradientStatistics:
        """Algorithm 1, client side, steps 1-5, as a private release of its own (docs/privacy.md)."""
        found = self.collect(grid)
        source = self.noise_source(0)
        return combine_statistics(found.releases, found.terms, self.layout, self.config, source, found.expected)
