"""What goes between a strategy and the app around its rounds: state, summaries, hooks, the adapter in Flower's form."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from flwr.app import Array, ArrayRecord, MetricRecord
from torch import Tensor

from common.codecs.base import Codec
from common.config import ServerConfig
from common.optimizer import AdapterOptimizer
from common.wire.sums import Entry
from server_app.rounds.divergence import Best
from server_app.rounds.private_scores import PrivateScores
from server_app.rounds.traffic import Traffic


@dataclass
class RunState:
    """Everything that changes from round to round, and hence all that a checkpoint must hold."""

    optimizer: AdapterOptimizer
    codec: Codec | None = None
    round: int = 0
    failed_in_a_row: int = 0
    base_loss: float = math.nan
    best: Best | None = None  # None: no released adapter has been judged better than the base model
    prior: Mapping[str, float] = field(default_factory=dict)  # how the codec came out, as the report has it
    stage_one: "StageOneTraffic | None" = None
    sums: list[Entry] = field(default_factory=list)  # what the adapter is made of, where clients are sent sums
    diverged: str = ""  # why the run has ended with an earlier adapter, which does not follow from these sums

    @property
    def adapter_round(self) -> int:
        """The round after which the adapter stood as it is now: not the last where the run went back; 0: untrained."""
        if not self.diverged:
            return self.round
        return self.best.round if self.best else 0

    @property
    def made_codec(self) -> Codec:
        """The codec that ``prepare`` made or a checkpoint brought; ``RuntimeError`` before either."""
        if self.codec is None:
            raise RuntimeError("the codec is made by prepare(), which has not run")
        return self.codec


@dataclass(frozen=True)
class StageOneTraffic:
    """What stage 1 moved, of one message, which is the same whoever was sampled; the names are the report's."""

    values_up_per_client: float
    bytes_up_per_client: float
    bytes_down_per_client: float


@dataclass(frozen=True)
class RoundSummary:
    """What one round did, for the log, the report and the person who watches."""

    round: int
    cohort: int
    replies: int
    shortage: str
    failures: int
    failure: str
    asked: int  # instructions sent: to the cohort, or with cover traffic everybody; in second legs and for scores, too
    answered: int  # replies that are counted in bytes_up
    bytes_up: int
    bytes_down: int
    seconds: float
    epsilon: float
    epsilon_server: float
    noise_promised: float  # std of the noise on the sum of codes that the round was charged for, code units
    noise_present: float  # of the replies that count and what the server added for those that are missing


@dataclass(frozen=True)
class Hooks:
    """What the app does around the rounds: evaluate (None when it has no data), log, save, tell who is missing.

    ``on_base``: the clients were asked for private scores of the untouched model: these, unless masks did not come off,
    and what asking moved.
    """

    evaluate: Callable[[int, Tensor], MetricRecord | None]
    on_prepared: Callable[[RunState], None]
    on_round: Callable[[RunState, RoundSummary, MetricRecord | None], None]
    on_attendance: Callable[[str], None] = print
    on_base: Callable[[PrivateScores | None, Traffic], None] = lambda *_: None


def optimizer_of(settings: ServerConfig, adapter: Tensor) -> AdapterOptimizer:
    """The configured optimizer at an adapter (shape ``[n]``)."""
    return AdapterOptimizer(settings.optimizer, settings.learning_rate, adapter)


def pack_adapter(adapter: Tensor) -> ArrayRecord:
    """A flat adapter as Flower carries it."""
    return ArrayRecord({"flat": Array(adapter.numpy())})


def unpack_adapter(arrays: ArrayRecord) -> Tensor:
    """The inverse of ``pack_adapter``."""
    return torch.from_numpy(arrays["flat"].numpy().copy())
