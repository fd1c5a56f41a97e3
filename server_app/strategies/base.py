"""What every strategy shares: cohorts, charges, rounds, failures, budget stop, checkpoints, evaluation.

A strategy is one subclass that says which codec the clients use (``prepare``). The round is Algorithm 2, server side:
aggregate the released codes (Eq 5, as a sum over codes with a fixed denominator), decode, step (Eq 6), send.
"""

import math
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from torch import Tensor

from common.adapter import Layout
from common.app_digest import app_digest
from common.codecs.base import Codec
from common.config import RunConfig
from common.models import AdaptedModel
from common.privacy.mechanism import combine
from common.privacy.noise import RandomSource
from common.privacy.sampling import poisson_sample
from common.quantize import QuantisedAdapter
from common.wire import TRAIN, Task, pack_instruction
from server_app.control import controlled_code, controlled_gradient
from server_app.events import log_event
from server_app.federation import FederationError, Question, Replies, exchange
from server_app.planned_encoder import PlannedEncoder, drawn, learnt, whole
from server_app.prior_settings import prior_settings
from server_app.privacy_account import PrivacyAccount
from server_app.privacy_plan import StageOne, round_terms
from server_app.run_state import Best, Hooks, RoundSummary, RunState, judged_loss, pack_adapter, unpack_adapter


class FederatedAdapter(Strategy):
    """Differentially private federated optimisation of one flat LoRA adapter through a codec.

    Args:
        config: the validated run configuration.
        adapted: the server's copy of the frozen model with its adapter; public, like the layout of its tensors.
        nodes: ids of the enrolled clients.
        account: the ledger and its running epsilon.
        state: a fresh state, or one from a checkpoint.
        hooks: evaluation, logging and saving.

    """

    def __init__(
        self,
        config: RunConfig,
        adapted: AdaptedModel,
        nodes: Sequence[int],
        account: PrivacyAccount,
        state: RunState,
        hooks: Hooks,
    ) -> None:
        self.config = config
        self.adapted = adapted
        self.layout = adapted.layout
        self.nodes = nodes
        self.account = account
        self.state = state
        self.hooks = hooks
        self.stop_reason = ""
        self._question: Question | None = None
        self._replies = Replies({}, {}, 0)
        self._shortage = ""

    @classmethod
    def stage_one(cls, config: RunConfig, layout: Layout) -> StageOne | None:
        """What ``prepare`` asks of clients, which the privacy plan must pay for; ``None``: nothing."""
        return None

    @classmethod
    def learns_codec(cls, config: RunConfig) -> bool:
        """Whether the codec is trained, so that its decoder may know something by itself and needs controls."""
        return False

    @classmethod
    def aligned_codec(cls, config: RunConfig) -> bool:
        """Whether the codec keeps most of a gradient's length, where random directions keep √(k/n) of it."""
        return False

    @classmethod
    def step_factor(cls, config: RunConfig, values: int, size: int) -> float:
        """By what a decoded code is multiplied, so that ``server.learning-rate`` means the same for every codec.

        That key says how far along its gradient a client of code norm 1 moves the adapter if all clients agree. Of a
        gradient of ``values`` = n values a code of ``size`` = k random directions gives √(k/n) of the length back.
        """
        return 1.0 if cls.aligned_codec(config) else math.sqrt(values / size)

    @classmethod
    def check(cls, config: RunConfig, layout: Layout) -> None:
        """Raise ``ConfigError`` where ``prepare`` could make no codec for this adapter: before any client is asked."""
        if not cls.sends_whole(config):
            prior_settings(config, layout)

    @abstractmethod
    def prepare(self, grid: Grid) -> Codec:
        """Make the codec before round 1 (stage 1 where a strategy has one)."""

    @property
    def codec(self) -> Codec:
        """The codec that ``prepare`` made or a checkpoint brought."""
        if self.state.codec is None:
            raise RuntimeError("the codec is made by prepare(), which has not run")
        return self.state.codec

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Run stage 1 (unless a checkpoint holds its result), then rounds until they, the budget or the model end."""
        result = Result(arrays=initial_arrays)
        if self.state.codec is None:
            self.state.codec = self.prepare(grid)
            self.hooks.on_prepared(self.state)
        arrays = pack_adapter(self.state.optimizer.adapter)
        for server_round in range(self.state.round + 1, num_rounds + 1):
            if not self.account.affords_round():
                self.stop_reason = "privacy budget spent"
                break
            started = time.monotonic()
            self.account.charge_round(server_round)  # first the charge, then anything that could be seen
            messages = self.configure_train(server_round, arrays, train_config or ConfigRecord(), grid)
            log_event("round_started", round=server_round, cohort=len(messages))
            replies = self.ask(grid, messages, timeout)
            new_arrays, _ = self.aggregate_train(server_round, replies)
            arrays = new_arrays or arrays
            metrics = self._evaluate(server_round, num_rounds)
            self.hooks.on_round(self.state, self._summarise(server_round, started), metrics)
            self._record(result, server_round, metrics)
            self._stop_if_failing()
            if self.stop_reason:
                break
        result.arrays = pack_adapter(self.state.optimizer.adapter)
        return result

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Draw the cohort (Poisson) and address the adapter, the encoder and the release terms to it."""
        plan = self.account.plan
        codec = self._codec_of(server_round)
        terms = round_terms(self.config.privacy, plan, codec.size)
        draw = self.account.draw_number(server_round)
        cohort = self.draw_cohort(draw, self.config.privacy.sampling_rate, plan.shares)
        self._question = Question(server_round, terms, cohort)
        if not cohort:
            return []
        task = Task(server_round, terms, app_digest())
        content = pack_instruction(self.broadcast(server_round, unpack_adapter(arrays)), codec.spec(), task)
        return self._question.address(content, TRAIN, self.config.federation.round_timeout)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Algorithm 2, server side; ``(None, None)`` when the step is not taken."""
        question = self._open_question(server_round)
        self._replies = question.sort(list(replies))
        self._shortage = self._too_few_replied(question)
        self.state.round = server_round
        self.state.failed_in_a_row = self.state.failed_in_a_row + 1 if self._shortage else 0
        if self._shortage and not self.account.plan.round.noise_multiplier:
            return None, None  # with noise the step is taken: whether it is must not depend on who replied
        releases = [self._replies.releases[node] for node in sorted(self._replies.releases)]
        # 1: aggregate the clients' codes, Eq (5): their noisy sum over a fixed denominator
        total = combine(releases, question.terms, self.noise_source(server_round))
        control = self.config.server.control
        code = controlled_code(control, total / self._denominator(len(releases)))
        # 2: decode with Dec, which never left the server, at the length that the gradients had
        factor = self.step_factor(self.config, self.layout.size, len(code))
        gradient = controlled_gradient(control, factor * self._codec_of(server_round).decode(code))
        # 3: gradient descent on the adapter, Eq (6)
        adapter = self.state.optimizer.step(gradient)
        # 4: what the next round sends to its clients
        return pack_adapter(adapter), None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """No client is asked to evaluate: a client's metric would be an unaccounted release."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Nothing to aggregate; evaluation is the server's, on public data."""
        return None

    def broadcast(self, server_round: int, adapter: Tensor) -> Tensor | QuantisedAdapter:
        """What the clients of a round get for the current adapter (shape ``[n]``): a function of it and of ``seed``."""
        return adapter

    @classmethod
    def sends_whole(cls, config: RunConfig) -> bool:
        """Whether a code is the adapter's size rather than ``codec.size`` under ``config``."""
        return False

    @classmethod
    def planned_broadcast(cls, config: RunConfig, layout: Layout) -> Tensor | QuantisedAdapter:
        """Something as large as what ``broadcast`` returns, before there is an adapter."""
        return torch.zeros(layout.size)

    @classmethod
    def planned_encoder(cls, config: RunConfig, layout: Layout, size: int) -> PlannedEncoder:
        """Something as large as the encoder of a code of ``size`` values, before there is a codec."""
        if cls.sends_whole(config):
            return whole(layout)
        return (learnt if cls.learns_codec(config) else drawn)(config, layout, size)

    def details(self) -> dict[str, object]:
        """What this strategy adds to the report, under ``strategy`` (plain JSON values; nothing private).

        ``summary``, if there is one, is a sentence for ``report.md`` and the terminal; ``figures``: numbers to compare.
        """
        return {}

    def summary(self) -> None:
        """Print the strategy in one line."""
        print(f"{type(self).__name__}: {self.layout.size:,} adapter values, {len(self.nodes)} clients")

    def draw_cohort(self, draw: int, rate: float, limit: int) -> list[int]:
        """The clients of draw number ``draw`` (0 is stage 1), by independent coin flips with the run's secret key.

        A cohort above ``limit``, the public number of noise shares, counts as empty; delta holds the probability.
        """
        cohort = poisson_sample(self.nodes, rate, self.state.sampling_key, draw)
        return cohort if len(cohort) <= limit else []

    def ask(self, grid: Grid, messages: list[Message], timeout: float) -> list[Message]:
        """Send instructions, at most ``federation.max-in-flight`` outstanding at a time, and gather the replies."""
        return exchange(grid, messages, timeout, self.config.federation.max_in_flight)

    def noise_source(self, round_index: int) -> RandomSource:
        """Randomness of the server's own noise."""
        seed = self.config.privacy.insecure_seed
        return RandomSource.system() if seed < 0 else RandomSource.insecure((seed << 32) ^ (round_index << 1) ^ 1)

    def _codec_of(self, server_round: int) -> Codec:
        """The codec of a round, redrawn every ``codec.refresh-every`` rounds."""
        every = self.config.codec.refresh_every
        return self.codec.redraw((server_round - 1) // every if every else 0)

    def _denominator(self, replies: int) -> float:
        """The expected cohort, fixed and public; the paper divides by the replies that came (Eq 5)."""
        plan = self.account.plan
        return float(max(1, replies)) if plan.printed else plan.expected_cohort

    def _open_question(self, server_round: int) -> Question:
        if self._question is None or self._question.round != server_round:
            raise RuntimeError(f"aggregate_train for round {server_round} without its configure_train")
        return self._question

    def _too_few_replied(self, question: Question) -> str:
        needed = math.ceil(self.config.federation.min_reply_rate * len(question.cohort))
        replied = len(self._replies.releases)
        if replied >= needed:
            return ""
        return f"{replied} of {len(question.cohort)} clients replied, {needed} are needed"

    def _stop_if_failing(self) -> None:
        if self.state.failed_in_a_row >= self.config.federation.max_failed_rounds:
            raise FederationError(
                f"{self.state.failed_in_a_row} rounds in a row had too few replies (last: {self._shortage}). "
                f"Most failures said: {self._replies.commonest_failure or 'nothing'}. The run can be resumed."
            )

    def _evaluate(self, server_round: int, last_round: int) -> MetricRecord | None:
        """Evaluate on schedule; on divergence go back to the best adapter so far, the base's included, and stop."""
        is_last = server_round == last_round or not self.account.affords_round()
        due = is_last or server_round % self.config.evaluation.every == 0
        adapter = self.state.optimizer.adapter
        metrics = self.hooks.evaluate(server_round, adapter) if due else None
        loss, judged = judged_loss(metrics)
        limit = self.config.server.divergence_factor * self.state.base_loss
        if not torch.isfinite(adapter).all() or math.isnan(loss) or loss > limit:
            best = self.state.best
            kept = f"of round {best.round}, whose loss {best.loss:.3g} was the lowest," if best else "of the base model"
            self.stop_reason = (
                f"diverged: {judged} loss {loss:.3g} above {limit:.3g} (server.divergence-factor times the base "
                f"model's); the adapter {kept} is kept"
            )
            self.state.optimizer.reset(best.adapter if best else self.adapted.initial.cpu())
        elif metrics is not None and loss < (self.state.best.loss if self.state.best else self.state.base_loss):
            self.state.best = Best(adapter, loss, server_round)
        return metrics

    def _summarise(self, server_round: int, started: float) -> RoundSummary:
        question = self._open_question(server_round)
        return RoundSummary(
            round=server_round,
            cohort=len(question.cohort),
            replies=len(self._replies.releases),
            shortage=self._shortage,
            failures=len(self._replies.failures) if question.messages else 0,
            failure=self._replies.commonest_failure if question.messages else "",
            bytes_up=self._replies.bytes_up,
            bytes_down=question.bytes_down,
            seconds=time.monotonic() - started,
            epsilon=self.account.epsilon_model(),
            epsilon_server=self.account.epsilon_server(),
            noise_promised=self.account.plan.round.noise_multiplier * question.terms.clip_norm,
            noise_present=question.terms.total_std(len(self._replies.releases)),
        )

    @staticmethod
    def _record(result: Result, server_round: int, metrics: MetricRecord | None) -> None:
        if metrics is not None:
            result.evaluate_metrics_serverapp[server_round] = metrics
