"""DR-Encoder: a random prior learnt from gradient statistics (Algorithm 1), then private codes (Algorithm 2)."""

from flwr.serverapp import Grid

from common.app_digest import app_digest
from common.codecs.base import Codec
from common.codecs.identity import IdentityCodec
from common.codecs.statistics import GradientStatistics
from common.config import RunConfig
from common.wire import STATISTICS, Task, pack_instruction
from server_app.federation import FederationError, Question
from server_app.prior import train_prior
from server_app.prior_settings import prior_settings
from server_app.prior_stage import combine_statistics, statistics_terms
from server_app.strategies.base import FederatedAdapter


class DrEncoder(FederatedAdapter):
    """Two stages: the AutoEncoder is trained on synthetic gradients only, then carries every gradient of stage 2.

    Stage 1 is here; a round of stage 2 is what all strategies share: ``configure_train`` (draw the cohort, send), the
    client's half in ``client_app/release.py``, and Algorithm 2's server half, steps 1-4, in ``aggregate_train``.
    """

    needs_statistics = True

    @classmethod
    def learns_codec(cls, config: RunConfig) -> bool:
        """The convolution and the trained linear form; all other forms are drawn or computed, not learnt."""
        return config.codec.kind == "conv" or (config.codec.kind, config.codec.form) == ("linear", "trained")

    def prepare(self, grid: Grid) -> Codec:
        """Algorithm 1: collect statistics, draw synthetic gradients from them, train the AutoEncoder."""
        statistics = self._collect_statistics(grid)
        codec, report = train_prior(self.layout, statistics, prior_settings(self.config, self.layout))
        self.state.prior = report.quality | {
            "encoder_bytes": float(report.encoder_bytes),
            "seconds": report.seconds,
            **({"first_loss": report.losses[0], "last_loss": report.losses[-1]} if report.losses else {}),
        }
        return codec

    def _collect_statistics(self, grid: Grid) -> GradientStatistics:
        """Algorithm 1, client side, steps 1-5, as a private release of its own (docs/privacy.md)."""
        rate = self.config.statistics.sampling_rate
        plan = self.account.plan
        terms = statistics_terms(self.config, plan, self.layout)
        raw = not terms.noise_multiplier
        cohort = self.draw_cohort(0, rate, plan.statistics_shares)
        self.account.charge_statistics()
        task = Task(0, terms, app_digest(), raw)
        content = pack_instruction(self.state.optimizer.adapter, IdentityCodec(self.layout).spec(), task)
        question = Question(0, terms, cohort, raw=raw)
        timeout = self.config.federation.round_timeout
        messages = question.address(content, STATISTICS, timeout)
        replies = question.sort(self.ask(grid, messages, timeout))
        if not replies.releases and (cohort or raw):  # an empty private cohort must go on, or it would be seen
            raise FederationError(
                f"stage 1: none of {len(cohort)} clients released statistics. "
                f"{replies.commonest_failure or 'Nobody was sampled: raise statistics.sampling-rate.'}"
            )
        ordered = [replies.releases[node] for node in sorted(replies.releases)]
        expected = rate * len(self.nodes)
        return combine_statistics(ordered, terms, self.layout, self.config, self.noise_source(0), expected)
