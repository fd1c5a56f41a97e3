"""What every strategy shares: cohorts, charges, rounds, failures, budget stop, checkpoints, evaluation.

A strategy is one subclass that says which codec the clients use (``recipe_for``; ``prepare`` where their answers make
it). The round is Algorithm 2, server side: aggregate the released codes (Eq 5, as a sum over codes with a fixed
denominator), decode, step (Eq 6), send.
"""

import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result
from torch import Tensor

from common import seeds
from common.adapter import Layout
from common.codecs.base import Codec
from common.config import RunConfig
from common.counts import count
from common.model.adapted import AdaptedModel
from common.privacy.mechanism import ReleaseTerms, WireArray, sum_releases
from common.privacy.noise import RandomSource
from common.proxy import QuantizedAdapter
from common.trajectory import RoundSum, adapter_digest, epoch_of
from common.wire.records import TRAIN
from common.wire.sums import pack_sum
from server_app.log import log_event
from server_app.privacy.account import PrivacyAccount
from server_app.privacy.randomness import SYSTEM, Randomness
from server_app.privacy.sampling import poisson_sample
from server_app.rounds.availability import Attendance
from server_app.rounds.cohort import FederationError, Instruction, exchange, own_answers, senders
from server_app.rounds.controls import Control, controlled_code, controlled_gradient
from server_app.rounds.divergence import judge
from server_app.rounds.downlink import Downlink, Parcel
from server_app.rounds.private_scores import PrivateScores, with_scores
from server_app.rounds.round import ClosedRound, Heard, OpenRound
from server_app.rounds.score_round import ask_scores, heard_scores
from server_app.rounds.secure import secure_aggregation
from server_app.rounds.state import Hooks, RunState, pack_adapter
from server_app.rounds.traffic import Traffic
from server_app.strategies.findings import Findings
from server_app.strategies.flower import FlowerStrategy
from server_app.strategies.recipe import Recipe
from server_app.strategies.tasks import round_task, step_terms


class FederatedAdapter(FlowerStrategy):
    """Differentially private federated optimization of one flat LoRA adapter through a codec.

    Args:
        recipe: what the strategy is under the configuration, for this adapter.
        config: the validated run configuration.
        adapted: the server's copy of the frozen model with its adapter; public, like the layout of its tensors.
        attendance: the enrolled clients, and who of them is there.
        account: the ledger and its running epsilon.
        state: a fresh state, or one from a checkpoint.
        hooks: evaluation, logging, saving and telling.
        control: what is kept from the model on purpose, in an experiment.
        randomness: what cohorts and noise are drawn from.

    """

    def __init__(
        self,
        recipe: Recipe,
        config: RunConfig,
        adapted: AdaptedModel,
        attendance: Attendance,
        account: PrivacyAccount,
        state: RunState,
        hooks: Hooks,
        *,
        control: Control = "none",
        randomness: Randomness = SYSTEM,
    ) -> None:
        self.recipe = recipe
        self.config = config
        self.adapted = adapted
        self.layout = adapted.layout
        self.attendance = attendance
        self.nodes = attendance.nodes
        self.secure = secure_aggregation(config.privacy, attendance, config.federation.round_timeout)
        self.account = account
        self.state = state
        self.hooks = hooks
        self.control = control
        self.randomness = randomness
        self.stop_reason = ""
        self.downlink = Downlink()

    @classmethod
    @abstractmethod
    def recipe_for(cls, config: RunConfig, layout: Layout) -> Recipe:
        """What this strategy is under ``config`` for an adapter; ``ConfigError`` where no codec could be made."""

    def prepare(self, grid: Grid) -> Codec:
        """Make the codec before round 1: the recipe's, or what a strategy with a stage 1 makes of the answers."""
        if self.recipe.codec is None:
            raise RuntimeError(f"{type(self).__name__}: its recipe holds no codec, so prepare() must make one")
        return self.recipe.codec

    @property
    def codec(self) -> Codec:
        """The codec that ``prepare`` made or a checkpoint brought."""
        return self.state.made_codec

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
        if self.state.codec is None:
            self._wait(grid, 0)
            self.state.codec = self.prepare(grid)
            if (asked := self._score_privately(grid, 0, last=False)) is not None:
                self.hooks.on_base(*asked)
            self.hooks.on_prepared(self.state)
        result = Result(arrays=initial_arrays)
        self.stop_reason = self.state.diverged  # of a run that was killed between its last round and its report
        for server_round in range(self.state.round + 1, num_rounds + 1):
            if self.stop_reason:
                break
            if not self.account.affords_round():
                self.stop_reason = "privacy budget spent"
                break
            metrics = self._run_round(grid, server_round, num_rounds, timeout)
            if metrics is not None:
                result.evaluate_metrics_serverapp[server_round] = metrics
        result.arrays = pack_adapter(self.state.optimizer.adapter)
        return result

    def _run_round(self, grid: Grid, server_round: int, last_round: int, timeout: float) -> MetricRecord | None:
        """Wait, charge, configure, ask, aggregate, evaluate, tell; the scores if it was evaluated."""
        self._wait(grid, server_round)
        started = time.monotonic()
        self.account.charge_round(server_round)  # first the charge, then anything that could be seen
        opened = self.configure(server_round, self.state.optimizer.adapter)
        log_event("round_started", round=server_round, cohort=len(opened.instruction.cohort))
        replies = self.gather(grid, opened.instruction, opened.parcel, timeout)
        if self.secure:
            number = self.account.exchange_number
            heard = self.secure.hear(
                opened.instruction, number, replies, lambda messages: self.ask(grid, messages, timeout)
            )
            opened = replace(opened, heard=heard)
        closed = self.aggregate(opened, replies)
        self.attendance.note(
            grid, server_round, self.hooks.on_attendance, opened.instruction.asked, closed.replies.silent
        )
        metrics, moved = self._evaluate(grid, server_round, last_round)
        self.hooks.on_round(self.state, closed.summary(self.account, time.monotonic() - started, moved), metrics)
        self._stop_if_failing(closed)
        return metrics

    def configure(self, server_round: int, adapter: Tensor) -> OpenRound:
        """Draw the cohort (Poisson) and address the adapter (shape ``[n]``), the encoder and the terms to it.

        Under secure aggregation everybody is asked, and each client draws for itself.
        """
        plan = self.account.plan
        draw, rate = self.account.draw_number(server_round), self.config.privacy.sampling_rate
        parcel = self.parcel(server_round, adapter)
        terms = parcel.task.terms
        if self.secure:
            away = set(self.attendance.away)
            instruction = self.secure.instruction(server_round, terms, self.account.exchange_number, rate, away)
        else:
            cohort = self.draw_cohort(draw, rate, plan.shares)
            instruction = Instruction(server_round, terms, cohort, covered=self.covered(cohort))
        timeout = self.config.federation.round_timeout
        instruction.address(lambda node: self.downlink.content(parcel, node), TRAIN, timeout)
        return OpenRound(instruction, self._codec_of(server_round), parcel)

    @property
    def sends_sums(self) -> bool:
        """Whether clients are sent the released sums, of which they make the adapter by themselves."""
        return self.recipe.seeded and self.codec.seeded and self.control == "none"

    def parcel(self, server_round: int, adapter: Tensor) -> Parcel:
        """What the clients of a round need: the assignment, and the adapter (shape ``[n]``) or what it follows from."""
        task = round_task(self.config.server, self.recipe, self.account.plan, server_round, sums=self.sends_sums)
        encoder = self.codec.redraw(0).spec()
        if task.step_terms is None or self.state.diverged:
            return Parcel(task, encoder, self.broadcast(server_round, adapter))
        return Parcel(task, encoder, self.state.optimizer.snapshot(), adapter_digest(adapter), tuple(self.state.sums))

    def aggregate(self, opened: OpenRound, replies: Sequence[Message]) -> ClosedRound:
        """Algorithm 2, server side, unless too few replied to a round without noise, or for a sum of masked codes."""
        noisy = bool(self.account.plan.round.noise_multiplier)
        closed = opened.close(replies, least=self.config.federation.min_reply_rate, noisy=noisy)
        self.downlink.note(opened.parcel, closed.replies.kept)
        self.state.round = opened.number
        if closed.shortage:
            self.state.failed_in_a_row += 1
        elif opened.instruction.cohort:  # a round that asked nobody says nothing of those who do not answer
            self.state.failed_in_a_row = 0
        if closed.steps:
            self._step(closed)
        return closed

    def _step(self, closed: ClosedRound) -> None:
        opened, terms = closed.opened, closed.opened.instruction.terms
        steps = step_terms(self.config.server, self.recipe, self.account.plan, terms)
        # 1: aggregate the clients' codes, Eq (5): their noisy sum over a fixed denominator
        total: WireArray | None = closed.summed
        if total is None:
            total = sum_releases(closed.releases, terms, self.randomness.noise(opened.number))
        code = controlled_code(self.control, steps.code(self._released(opened.number, total, terms)))
        # 2: decode with Dec at the length that the gradients had; a Dec that was learnt never left the server
        gradient = controlled_gradient(self.control, steps.gradient(opened.codec, code))
        # 3: gradient descent on the adapter, Eq (6); 4: the next round sends it, or the sum, to its clients
        self.state.optimizer.step(gradient)

    def _released(self, server_round: int, total: WireArray, terms: ReleaseTerms) -> RoundSum:
        """The sum (shape ``[k]``) that the step is taken with: the one that clients get, where they get sums."""
        if not self.sends_sums:
            return RoundSum(server_round, 1 if terms.noise_multiplier else 0, total)
        summed = RoundSum.of(server_round, total)
        self.state.sums.append(pack_sum(summed))
        return summed

    def broadcast(self, server_round: int, adapter: Tensor) -> Tensor | QuantizedAdapter:
        """What the clients of a round get for the current adapter (shape ``[n]``): a function of it and of ``seed``."""
        return adapter

    def measure(self) -> Findings:
        """What this strategy adds to the report, measured once, when the last round is over; may take long."""
        return Findings()

    def summary(self) -> None:
        """Print the strategy in one line."""
        print(f"{type(self).__name__}: {self.layout.size:,} adapter values, {count(len(self.nodes), 'client')}")

    def draw_cohort(self, draw: int, rate: float, limit: int) -> list[int]:
        """The clients of draw number ``draw`` (0 is stage 1), by independent coin flips of the operating system.

        Only without privacy can a draw be repeated: its number and ``seed`` make it. A cohort above ``limit``, the
        public number of noise shares, counts as empty; delta holds the probability.
        """
        if self.account.plan.round.noise_multiplier:
            coins = self.randomness.coins(draw)
        else:
            coins = RandomSource.insecure(seeds.insecure_cohort(self.config.seed, draw))
        cohort = poisson_sample(self.nodes, rate, coins)
        return cohort if len(cohort) <= limit else []

    def covered(self, cohort: Sequence[int]) -> list[int]:
        """The clients outside ``cohort`` that are asked too: with ``federation.cover`` being asked tells nothing."""
        members = set(cohort)
        return [node for node in self.nodes if node not in members] if self.config.federation.cover else []

    def gather(self, grid: Grid, instruction: Instruction, parcel: Parcel, timeout: float) -> list[Message]:
        """The replies to an instruction; who lacks what it was thought to keep is asked again, with all sums.

        Whoever makes another adapter of these, on a machine that rounds otherwise, is sent the adapter. A client finds
        out before it charges and before it reads a row, so the last question is its first.
        """
        deadline = time.monotonic() + timeout
        replies = last = self.ask(grid, instruction.messages, timeout, scores=instruction.scores)
        for whole in (False, True):
            lacking, left = instruction.lacking(last), deadline - time.monotonic()
            if not lacking or left <= 0:
                break
            log_event("asked_with_everything", round=instruction.told, nodes=len(lacking))
            self.downlink.forget(lacking)
            kind, content = instruction.messages[0].metadata.message_type, parcel.content(None, whole=whole)
            again = instruction.address(lambda _, content=content: content, kind, left, lacking)  # type: ignore[misc]
            last = self.ask(grid, again, left, scores=instruction.scores)
            replies = [*replies, *last]
        return replies

    def ask(self, grid: Grid, messages: list[Message], timeout: float, *, scores: bool = False) -> list[Message]:
        """Send instructions, at most ``federation.max-in-flight`` outstanding at a time, and gather the replies.

        ``scores``: they are of a private evaluation.
        """
        window, say = self.config.federation.max_in_flight, self.hooks.on_attendance
        replies = exchange(grid, messages, timeout, window, say, scores=scores)
        self.attendance.heard(map(senders(messages), own_answers(replies)))
        return replies

    def _wait(self, grid: Grid, server_round: int) -> None:
        """Return when a round may be charged: enough clients are there, and have keys where they need any."""
        failed = self.state.failed_in_a_row if server_round else 0
        self.attendance.wait(grid, server_round, self.hooks.on_attendance, failed)
        if self.secure:
            online = set(self.nodes) - self.attendance.away
            self.secure.make_ready(
                lambda messages: self.ask(grid, messages, self.config.federation.round_timeout), online
            )

    def _codec_of(self, server_round: int) -> Codec:
        """The codec of a round, redrawn every ``codec.refresh-every`` rounds."""
        return self.codec.redraw(epoch_of(server_round, self.recipe.refresh_every))

    def _stop_if_failing(self, closed: ClosedRound) -> None:
        if self.state.failed_in_a_row >= self.config.federation.max_failed_rounds:
            raise FederationError(
                f"{count(self.state.failed_in_a_row, 'round')} in a row had too few replies (last: {closed.shortage}). "
                f"Most failures said: {closed.replies.commonest_failure or 'nothing'}. The run can be resumed."
            )

    def _evaluate(self, grid: Grid, server_round: int, last_round: int) -> tuple[MetricRecord | None, Traffic]:
        """Evaluate on schedule; on divergence go back to the best adapter so far, the base's included, and stop.

        The scores that there are, and what asking clients for theirs moved.
        """
        is_last = server_round == last_round or not self.account.affords_round()
        due = is_last or server_round % self.config.evaluation.every == 0
        state, adapter = self.state, self.state.optimizer.adapter
        metrics = self.hooks.evaluate(server_round, adapter) if due else None
        factor = self.config.server.divergence_factor
        judgment = judge(adapter, metrics, server_round, state.best, state.base_loss, factor)
        state.best = judgment.best
        if judgment.diverged:
            self.stop_reason = state.diverged = judgment.diverged
            state.optimizer.reset(state.best.adapter if state.best else self.adapted.initial.cpu())
            due = False
        asked = self._score_privately(grid, server_round, last=is_last) if due else None
        scores, moved = asked or (None, Traffic())
        return with_scores(metrics, scores), moved

    def _score_privately(
        self, grid: Grid, server_round: int, *, last: bool
    ) -> tuple[PrivateScores | None, Traffic] | None:
        """Everybody's scores of the adapter after a round, which the next one sends, and what asking for them moved.

        ``None`` where nobody is asked; no scores where masks did not come off.
        """
        terms = self.account.plan.evaluation_terms
        if terms is None or not self.account.affords_evaluation(last=last):
            return None
        self.account.charge_evaluation(server_round)
        parcel = self.parcel(server_round + 1, self.state.optimizer.adapter)
        timeout, exchange = self.config.federation.round_timeout, self.account.exchange_number
        secure = (self.secure, exchange) if self.secure else None
        asked = ask_scores(parcel, terms, self.nodes, self.attendance.away, self.downlink, secure, timeout)
        replies = self.gather(grid, asked, parcel, timeout)
        if self.secure:
            heard = self.secure.hear(
                asked, exchange, replies, lambda messages: self.ask(grid, messages, timeout, scores=True)
            )
        else:
            heard = Heard(asked.sort(replies))
        self.downlink.note(parcel, heard.replies.kept)
        scores = heard_scores(asked, heard, len(self.nodes), self.randomness.noise(-2 - server_round))
        return scores, heard.traffic(asked)
