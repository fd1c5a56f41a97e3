"""FedCG (CG-FedLLM, arXiv 2405.13746): an AutoEncoder that is trained on the clients' real gradients.

TGAP, stage 1: a cohort sends LoRA gradients of a few local steps on a share of its examples, and the server
trains the AutoEncoder on them. FAF, stage 2: the rounds, on the other examples, with codes. In the clear
(``stage-one.private = false``, the original) stage 1 has no privacy, whatever noise the rounds add; else all that a
client sends is clipped as one vector, noised and charged.
"""

import numpy as np
import torch
from flwr.serverapp import Grid
from torch import Tensor

from common.adapter import Layout
from common.codecs.base import Codec
from common.config import ConfigError, RunConfig, StageOneConfig
from common.wire.assignment import STAGE_ONE_SHARE
from common.wire.records import GRADIENTS
from server_app.priors.collected import train_informed
from server_app.priors.synthetic import check_trained, code_size
from server_app.privacy.stage_one import StageOne
from server_app.results.tracking import watched
from server_app.rounds.cohort import FederationError
from server_app.strategies.recipe import Recipe, learned_encoder
from server_app.strategies.two_stage import TwoStage, prior_settings


class FedCg(TwoStage):
    """``codec.kind``: conv is the original's; linear is always a trained one (``codec.form`` is not read)."""

    message_type = GRADIENTS
    wanted = "gradients"

    @classmethod
    def recipe_for(cls, config: RunConfig, layout: Layout) -> Recipe:
        """All gradients of a client in one release; the size must be one that the network has for this adapter."""
        settings = prior_settings(config.codec, config.seed, layout)
        try:
            check_trained(layout, settings)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        return Recipe(
            layout,
            code_size(layout, settings),
            learned_encoder(config.codec, layout),
            stage_one=gradients_stage(config.stage_one, layout),
            learned=True,
            keeps_length=True,  # it is trained to give gradients like the clients' back at their own length
        )

    def prepare(self, grid: Grid) -> Codec:
        """TGAP: collect gradients, train the AutoEncoder on them."""
        settings = prior_settings(self.config.codec, self.config.seed, self.layout)
        gradients = self._collect_gradients(grid)
        if not gradients.any():
            raise FederationError("stage 1: every gradient that was collected is zero; nothing can be learnt from them")
        with watched("making the codec", self.hooks.on_attendance):
            codec, report = train_informed(self.layout, gradients, settings)
        self.state.prior = report.figures()
        return codec

    def quality_measured_on(self) -> str:
        """What ``prepare`` has collected: the training rows themselves, so an in-sample figure."""
        charge = self.account.plan.stage_one
        kind = "noisy mean gradients" if charge and charge.noise_multiplier else "real gradients"
        return f"the {kind} it was trained on"

    def _collect_gradients(self, grid: Grid) -> Tensor:
        """Every client's gradients, shape ``[m, n]``; if private only their noisy means over the cohort, step by step.

        The mean is what carries the noise that was charged (``combine``): a single message has a share of it only.
        """
        found = self.collect(grid)
        if found.terms.noise_multiplier:
            rows = found.total(self.randomness.noise(0)) / found.expected
        else:
            rows = torch.from_numpy(np.concatenate(found.releases))
        return rows.view(-1, self.layout.size)


def gradients_stage(section: StageOneConfig, layout: Layout) -> StageOne:
    """TGAP as the plan must pay for it."""
    size = section.steps * layout.size
    return StageOne(
        label="stage 1: gradients",
        sampling_rate=section.sampling_rate,
        private=section.private,
        reason="stage-one.private = false: stage 1 sends real gradients without noise and the AutoEncoder is made of "
        "them, so noise in the rounds protects nobody",
        size=size,
        open_size=size,
        clip_norm=section.clip_norm,
        share=STAGE_ONE_SHARE,
        steps=section.steps,
        learning_rate=section.learning_rate,
    )
