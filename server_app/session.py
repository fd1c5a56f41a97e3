"""What happens around the rounds of a run: scores, checkpoints, lines for people, results at the end."""

import logging
import math
from dataclasses import asdict, dataclass

from flwr.app import MetricRecord
from flwr.serverapp import Grid
from torch import Tensor

from common.codecs.base import Codec
from common.config import ConfigError, RunConfig, ServerConfig
from common.counts import count
from common.model.adapted import AdaptedModel
from common.wire.digest import app_digest
from server_app.log import log_event
from server_app.privacy.account import PrivacyAccount
from server_app.privacy.ledger import Ledger
from server_app.privacy.plan import PrivacyPlan
from server_app.results.checkpoints import CheckpointError, Progress, load_checkpoint, mark_ended, save_checkpoint
from server_app.results.console import ConsoleLog, Stopwatch
from server_app.results.folder import RunFolder
from server_app.results.model_card import model_card
from server_app.results.monitor import Monitor
from server_app.results.published_names import public_name
from server_app.results.repeating import public_settings
from server_app.results.report import Scores, write_report
from server_app.results.resuming import Clients, why_not_resumable
from server_app.results.scoring import Scorer
from server_app.results.trackers import Sink, open_sink
from server_app.results.tracking import phase, watched
from server_app.rounds.availability import Attendance
from server_app.rounds.divergence import judged_loss
from server_app.rounds.private_scores import PrivateScores, with_scores
from server_app.rounds.state import Hooks, RoundSummary, RunState, optimizer_of
from server_app.rounds.traffic import Traffic
from server_app.strategies.base import FederatedAdapter
from server_app.strategies.effect import without_effect
from server_app.strategies.expected import expectation
from server_app.strategies.recipe import Recipe


def open_account(recipe: Recipe, plan: PrivacyPlan, ledger: Ledger) -> PrivacyAccount:
    """The account of a run, which knows what one message of each stage reveals by itself."""
    message, stage = plan.round_terms(recipe.code_size), recipe.stage_one
    scores = plan.evaluation_terms
    return PrivacyAccount(
        plan,
        ledger,
        message_noise=message.message_noise_multiplier,
        stage_one_noise=plan.stage_one_terms(stage).message_noise_multiplier if stage else math.inf,
        evaluation_noise=scores.message_noise_multiplier if scores else math.inf,
    )


@dataclass
class Session:
    """What lives as long as a run beside its strategy, and what is done around the rounds (``hooks``)."""

    config: RunConfig
    adapted: AdaptedModel
    clients_are: Clients
    recipe: Recipe
    folder: RunFolder
    state: RunState
    account: PrivacyAccount
    attendance: Attendance
    watch: Stopwatch
    scorer: Scorer | None
    sink: Sink | None
    monitor: Monitor
    say: ConsoleLog

    @classmethod
    def open(
        cls,
        config: RunConfig,
        adapted: AdaptedModel,
        recipe: Recipe,
        plan: PrivacyPlan,
        clients_are: Clients,
        attendance: Attendance,
        folder: RunFolder,
        say: ConsoleLog,
    ) -> "Session":
        """All of it, fresh in ``folder``, with the base model scored, or from the checkpoint there."""
        clients = plan.clients
        log_event("run_resumed" if config.resume else "run_started", app_digest=app_digest(), clients=clients)
        ledger = Ledger(folder.ledger)
        if config.resume:
            state, progress = _resume(config.server, adapted, ledger, folder)
            say(f"resumed after {f'round {state.round}' if state.round else 'stage 1'}")
        else:
            folder.write_config(config, clients)
            state = RunState(optimizer_of(config.server, adapted.initial.cpu()))
            progress = Progress(0.0, ledger.head, clients)
        account = open_account(recipe, plan, ledger)
        last = min(config.num_server_rounds, state.round + account.rounds_left)  # fewer where some were lost
        session = cls(
            config=config,
            adapted=adapted,
            clients_are=clients_are,
            recipe=recipe,
            folder=folder,
            state=state,
            account=account,
            attendance=attendance,
            watch=Stopwatch(last, progress.elapsed),
            scorer=Scorer.of(adapted, config.data, config.seed),
            sink=open_sink(config.output.tracker, folder.path, public_settings(config, clients), state.round + 1),
            monitor=Monitor(folder, config.num_server_rounds, account, attendance),
            say=say,
        )
        account.on_charge = session.monitor.write  # what is charged is spent, whatever becomes of the round
        session.monitor.write()
        if not config.resume:
            session.evaluate_base()
        return session

    @property
    def hooks(self) -> Hooks:
        """What the strategy calls around its rounds."""
        return Hooks(self.evaluate, self.on_prepared, self.on_round, self.on_attendance, self.on_base)

    def gather(self, grid: Grid) -> None:
        """Wait for the clients of a run that is resumed: as many as it was planned for, whichever they are."""
        self.attendance.gather(grid, self.state.round + 1, self.on_attendance)
        planned, connected = self.account.plan.clients, len(self.attendance.nodes)
        if connected != planned:
            raise CheckpointError(
                f'resume = "{self.folder.path}": planned for {count(planned, "client")}, {connected} are connected; '
                "the guarantee was computed for that number: connect as many"
            )

    def tell_expected(self, learned: Codec | None = None) -> None:
        """Tell a person what noise will do, before stage 1 or by what it has ``learned``."""
        length = float(self.adapted.initial.norm())
        self.say.remark(expectation(self.config.server, self.account.plan, self.recipe, length, learned))

    def evaluate_base(self) -> None:
        """Score the untouched model: row 0 of the metrics, and the yardstick of divergence."""
        metrics = self.evaluate(0, self.state.optimizer.adapter, whole=True)
        loss = judged_loss(metrics)[0] if metrics else math.inf
        if math.isnan(loss):
            raise ConfigError(
                f'data.evaluation = "{self.config.data.evaluation}": the base model\'s held-out loss is nan, so no '
                "round could be compared with it; look at model.dtype and at the rows"
            )
        self.state.base_loss = loss
        self._keep({"round": 0, **_plain(metrics)})
        self.say.base(metrics)
        if self.scorer is not None:
            data, model = self.config.data, self.config.model.name
            for warning in self.scorer.held_out.warnings(data.evaluation, model):
                self.say.warning(warning)

    def on_base(self, scores: PrivateScores | None, moved: Traffic) -> None:
        """The clients were asked to score the untouched model: row 0 has their scores too, and what asking moved."""
        (before,) = [row for row in self.folder.read_metrics() if row["round"] == 0]
        self._keep({**before, **(scores.metrics() if scores else {}), **asdict(moved)})
        if scores is not None:
            self.say.base(with_scores(None, scores))

    def evaluate(self, server_round: int, adapter: Tensor, *, whole: bool = False) -> MetricRecord | None:
        """The scores of an adapter (shape ``[n]``); retention is among them if ``whole``; ``None`` without data."""
        if self.scorer is None:
            return None
        step = f"round {server_round}" if server_round else "base model"
        with watched(f"{step}, evaluation", self.say), phase(step):
            return self.scorer(adapter, whole=whole)

    def on_prepared(self, state: RunState) -> None:
        """Stage 1 has ended: keep the codec, tell its quality."""
        log_event("codec_ready", round=state.round)
        self.say.prepared(state.prior, state.made_codec.size, self.adapted.layout.size)
        self._save(state)
        self.monitor.write()
        self.say.warning(without_effect(state.made_codec, self.adapted.layout, self.adapted.initial))
        if self.recipe.learned:
            self.tell_expected(state.made_codec)

    def on_round(self, state: RunState, summary: RoundSummary, metrics: MetricRecord | None) -> None:
        """A round has ended: metrics line, checkpoint, one line for the person who watches."""
        self.watch.lap()
        line = {**summary.__dict__, "elapsed": self.watch.elapsed, **_plain(metrics)}
        line["epsilon"] = _number(summary.epsilon)
        line["epsilon_server"] = _number(summary.epsilon_server)
        self._keep(line)
        level = logging.WARNING if summary.shortage else logging.INFO
        log_event("round_finished", level=level, round=summary.round, cohort=summary.cohort, replies=summary.replies)
        self._save(state)
        self.monitor.write()
        self.say.round(summary, metrics, self.watch)

    def on_attendance(self, line: str) -> None:
        """Nodes are waited for, are back, or are silent."""
        self.say(line)
        self.monitor.write()

    def finish(self, strategy: FederatedAdapter, *, plots: bool = True) -> None:
        """Certify epsilon, write adapter, report and plots, mark the run as ended; ``latest`` is this run now."""
        adapter = self.state.optimizer.adapter
        rounds = self.state.round
        scores = self._final_scores(adapter, samples=plots)
        self.folder.save_adapter(self.adapted, adapter, self.config.model.name)
        findings = strategy.measure()
        with watched("the report", self.say):
            report = write_report(self.folder, strategy, findings, scores, self.watch.elapsed, plots=plots)
        self.folder.publish(model_card(self.config.model, self.config.lora, report))
        try:
            self.folder.point_latest()
        except OSError as error:  # of a folder that others write into, too; the run has ended all the same
            self.say.warning(f'"latest" does not name this run: {error}')
        mark_ended(self.folder.checkpoint)
        if self.sink is not None:
            self.sink.close()
        self.monitor.write("completed")
        log_event("run_ended", round=rounds, reason=report["outcome"]["stopped_because"])
        self.say.closing(report)

    def stop(self) -> None:
        """The run was asked to stop: what is charged is done, the checkpoint stands, and the run has not ended."""
        self.monitor.write("stopped")
        after = f"after round {self.state.round}" if self.state.codec else "before stage 1"
        log_event("run_stopped", round=self.state.round, reason=f"as asked, {after}")
        self.say(f"stopped as asked, {after}; {why_not_resumable(self.folder.path) or 'it can be resumed'}")

    def _final_scores(self, adapter: Tensor, *, samples: bool) -> Scores:
        if self.scorer is None:
            return Scores()
        rounds = self.state.adapter_round
        final = {"round": rounds, **_plain(self.evaluate(rounds, adapter, whole=True))}
        with watched("examples for the report", self.say):
            shown = self.scorer.samples(self.adapted.initial.cpu(), adapter) if samples else []
        named, model = self.config.data.evaluation, public_name(self.config.model.name)
        warnings = self.scorer.held_out.warnings(named and public_name(named), model)
        return Scores(final, {**self.scorer.describe(), "warnings": warnings}, shown)

    def _keep(self, line: dict[str, object]) -> None:
        self.folder.append_metrics(line)
        if self.sink is not None:
            self.sink.write(line)

    def _save(self, state: RunState) -> None:
        clients = len(self.attendance.nodes)
        planned = self.config.flat()
        progress = Progress(self.watch.elapsed, self.account.ledger_head, clients, planned, self.clients_are)
        save_checkpoint(self.folder.checkpoint, state, progress)
        log_event("checkpoint_saved", round=state.round)


def _resume(
    server: ServerConfig, adapted: AdaptedModel, ledger: Ledger, folder: RunFolder
) -> tuple[RunState, Progress]:
    state, progress = load_checkpoint(folder.checkpoint, server, adapted.layout)
    if not ledger.contains(progress.ledger_head):
        raise CheckpointError(f"{folder.ledger}: the ledger lacks charges that the checkpoint was made after")
    return state, progress


def _plain(metrics: MetricRecord | None) -> dict[str, object]:
    return dict(metrics) if metrics is not None else {}


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else "inf"
