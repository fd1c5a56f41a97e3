"""Strategies with a stage 1: a cohort is asked once, before round 1, for what the codec is made of."""

from abc import abstractmethod
from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np
from flwr.app import Message
from flwr.serverapp import Grid
from numpy.typing import NDArray
from torch import Tensor

from common.adapter import Layout
from common.codecs.autoencoder import NeuralCodec
from common.codecs.conv import usual_depth
from common.codecs.identity import IdentityCodec
from common.config import CodecConfig, ConfigError
from common.counts import count
from common.privacy.mechanism import ReleaseTerms, code_units, combine
from common.privacy.noise import RandomSource
from common.trajectory import adapter_digest
from common.wire.records import release_bytes, serialized_bytes
from server_app.log import log_event
from server_app.priors.synthetic import PriorSettings
from server_app.privacy.stage_one import StageOne
from server_app.rounds.cohort import FederationError, Instruction
from server_app.rounds.downlink import Parcel
from server_app.rounds.round import Heard
from server_app.rounds.secure import bytes_of_answer
from server_app.rounds.state import StageOneTraffic
from server_app.strategies.base import FederatedAdapter
from server_app.strategies.findings import Findings
from server_app.strategies.recipe import check_size
from server_app.strategies.tasks import stage_one_task

ADAM_STEPS = 300
"""Of the training of a learned AutoEncoder (Algorithm 1, server side)."""


@dataclass(frozen=True)
class Collected:
    """What came of stage 1: the releases (shape ``[terms.size]`` each), their terms, the expected number of them.

    ``summed``: under secure aggregation their noisy sum (grid steps), all that there is.
    """

    releases: list[np.ndarray]
    terms: ReleaseTerms
    expected: float
    summed: NDArray[np.int64] | None = None

    def total(self, source: RandomSource) -> Tensor:
        """The noisy sum of the releases, code units, shape ``[terms.size]``; ``source``: of the server's own noise."""
        if self.summed is None:
            return combine(self.releases, self.terms, source)
        return code_units(self.summed, self.terms)


class TwoStage(FederatedAdapter):
    """A strategy whose ``prepare`` calls ``collect`` once; its recipe's ``stage_one`` says what that costs."""

    message_type: ClassVar[str]
    wanted: ClassVar[str]  # what the clients are asked for, in the words of an error

    def collect(self, grid: Grid) -> Collected:
        """Charge stage 1, then ask its cohort; raises ``FederationError`` when nobody answers."""
        stage, plan = self._stage(), self.account.plan
        task = stage_one_task(plan, stage)
        terms, raw = task.terms, task.raw
        self.account.charge_stage_one()
        adapter = self.state.optimizer.adapter  # the initial one, which follows from the seed: of no sums
        parcel = Parcel(task, IdentityCodec(self.layout).spec(), adapter, adapter_digest(adapter), ())
        heard, instruction = self._heard(grid, parcel, stage)
        replies, cohort = heard.replies, instruction.cohort
        promised = plan.stage_one.noise_multiplier * terms.clip_norm if plan.stage_one else 0.0
        summed = heard.repair.replies if heard.repair else replies
        present = terms.total_std(len(summed.releases))
        log_event(
            "stage_one_answered", round=0, cohort=len(cohort), replies=len(replies.releases),
            **asdict(heard.traffic(instruction)), noise_promised=promised, noise_present=present,
        )  # fmt: skip
        if heard.shortage:
            raise FederationError(f"stage 1: {heard.shortage}. {replies.commonest_failure}")
        if not replies.releases and (cohort or raw):  # an empty private cohort must go on, or it would be seen
            raise FederationError(
                f"stage 1: none of {count(len(cohort), 'client')} released {self.wanted}. "
                f"{replies.commonest_failure or 'Nobody was sampled: raise stage-one.sampling-rate.'}"
            )
        # of one message, whoever was sampled: a total, or a gap, would tell of a secret cohort
        self.state.stage_one = StageOneTraffic(
            values_up_per_client=float(terms.size),
            bytes_up_per_client=float(bytes_of_answer(terms)),
            bytes_down_per_client=float(serialized_bytes(instruction.dressed(parcel.content(None)))),
        )
        ordered = sorted(replies.releases.values(), key=np.ndarray.tobytes)  # Flower's node ids are random
        return Collected(ordered, terms, stage.sampling_rate * len(self.nodes), heard.summed)

    def _heard(self, grid: Grid, parcel: Parcel, stage: StageOne) -> tuple[Heard, Instruction]:
        """What comes of asking the cohort of stage 1, or under secure aggregation everybody."""
        timeout, number, terms = self.config.federation.round_timeout, 0, parcel.task.terms

        def ask(messages: list[Message]) -> list[Message]:
            return self.ask(grid, messages, timeout)

        if self.secure:
            away = set(self.attendance.away)
            instruction = self.secure.instruction(0, terms, number, stage.sampling_rate, away)
        else:
            cohort = self.draw_cohort(0, stage.sampling_rate, self.account.plan.stage_one_shares)
            instruction = Instruction(0, terms, cohort, raw=parcel.task.raw, covered=self.covered(cohort))
        instruction.address(lambda node: self.downlink.content(parcel, node), self.message_type, timeout)
        log_event("stage_one_started", round=0, cohort=len(instruction.cohort))
        replies = self.gather(grid, instruction, parcel, timeout)
        if self.secure:
            return self.secure.hear(instruction, number, replies, ask), instruction
        return Heard(instruction.sort(replies)), instruction

    @abstractmethod
    def quality_measured_on(self) -> str:
        """Of which gradients the report's ``codec.captured_energy`` and ``cosine`` are, in words."""

    def measure(self) -> "StageOneFindings":
        """Weigh stage 1 against sending its gradients exactly (the paper's Table 5), and an AutoEncoder.

        Bytes are of serialized records: a reply, an instruction, the encoder within one. The decoder never travels.
        """
        if self.state.stage_one is None:
            raise RuntimeError("stage 1 is weighed by prepare(), which has not run")
        values = self._stage().steps * self.layout.size
        exact = ReleaseTerms(values, 1.0, 0.0, "central", 0, normalize=False)
        learned = AutoEncoderSize.of(self.codec) if isinstance(self.codec, NeuralCodec) else None
        return StageOneFindings(
            traffic=self.state.stage_one,
            exact_values=exact.size,
            exact_bytes=release_bytes(exact),
            measured_on=self.quality_measured_on(),
            autoencoder=learned,
        )

    def _stage(self) -> StageOne:
        if self.recipe.stage_one is None:
            raise RuntimeError(f"{type(self).__name__} has a stage 1, so its recipe must describe it")
        return self.recipe.stage_one


@dataclass(frozen=True)
class AutoEncoderSize:
    """How large a learned codec is, and how much of it travels; the names are the report's."""

    encoder_parameters: int
    decoder_parameters: int
    encoder_bytes_down_per_client: int
    decoder_bytes_kept: int
    adapter_values_per_code_value: float

    @classmethod
    def of(cls, codec: NeuralCodec) -> "AutoEncoderSize":
        """Packs the encoder to weigh it."""
        spec = codec.spec()
        encoder, decoder = codec.parameters
        return cls(
            encoder_parameters=encoder,
            decoder_parameters=decoder,
            encoder_bytes_down_per_client=spec.nbytes,
            decoder_bytes_kept=codec.state().nbytes - spec.nbytes,
            adapter_values_per_code_value=codec.dim / codec.size,
        )


@dataclass(frozen=True)
class StageOneFindings(Findings):
    """What stage 1 moved, and what its gradients, sent exactly, would have.

    Attributes:
        traffic: of one client.
        exact_values: of all gradients that it computed.
        exact_bytes: of a reply with them.
        measured_on: of which gradients ``codec.captured_energy`` is, in words.
        autoencoder: where the codec is a network.

    """

    traffic: StageOneTraffic
    exact_values: int
    exact_bytes: int
    measured_on: str
    autoencoder: AutoEncoderSize | None

    def details(self) -> dict[str, object]:
        """Stage 1, of what the codec's quality is, and the AutoEncoder's size."""
        found: dict[str, object] = {
            "stage_1": {
                **asdict(self.traffic),
                "exact_gradients_values": self.exact_values,
                "exact_gradients_bytes": self.exact_bytes,
                "values_over_exact_gradients": self.traffic.values_up_per_client / self.exact_values,
            },
            "captured_energy_of": self.measured_on,
        }
        return found | ({"autoencoder": asdict(self.autoencoder)} if self.autoencoder else {})


def prior_settings(codec: CodecConfig, seed: int, layout: Layout) -> PriorSettings:
    """Settings of Algorithm 1's server side; raises ``ConfigError`` when the code cannot fit the adapter."""
    check_size(codec, layout)
    try:
        return PriorSettings(
            kind=codec.kind,
            form=codec.form,
            size=codec.size,
            seed=seed,
            steps=ADAM_STEPS,
            depth=usual_depth(layout.size),
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
