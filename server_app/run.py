"""One run from configuration to results: connect, plan, prepare, rounds, report."""

import logging
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from flwr.app import MetricRecord
from flwr.serverapp import Grid
from torch import Tensor

from common.config import ConfigError, RunConfig
from common.data import (
    check_chat_template,
    check_evaluation_is_public,
    evaluation_examples,
    retention_examples,
    validation_examples,
)
from common.model.adapted import AdaptedModel, load_adapted_model
from common.model.positions import check_length
from common.private_files import private_files
from common.wire.digest import app_digest
from server_app.log import log_event, recording
from server_app.privacy.account import PrivacyAccount
from server_app.privacy.ledger import Ledger
from server_app.privacy.plan import PrivacyPlan, make_plan, round_terms, stage_one_terms
from server_app.privacy.stage_one import empty_stage_one
from server_app.results.checkpoints import (
    CheckpointError,
    Progress,
    load_checkpoint,
    mark_ended,
    save_checkpoint,
)
from server_app.results.console import Narrator, Watch
from server_app.results.evaluation import Evaluation, Evaluator
from server_app.results.folder import RunFolder
from server_app.results.json_lines import finite
from server_app.results.model_card import model_card
from server_app.results.monitor import Monitor
from server_app.results.output_place import check_output
from server_app.results.report import write_report
from server_app.results.resuming import check_same_run, why_not_resumable
from server_app.results.tensorboard import Scalars, check_tensorboard
from server_app.results.tracking import phase, watched
from server_app.rounds.availability import site_names
from server_app.rounds.cohort import connect
from server_app.rounds.optimizer import ServerOptimizer
from server_app.rounds.state import VALIDATION_LOSS, Hooks, RoundSummary, RunState, judged_loss, pack_adapter
from server_app.strategies import check_strategy_name, recipe_of, strategy_of
from server_app.strategies.base import FederatedAdapter
from server_app.strategies.recipe import Recipe


@private_files()
def run_federation(grid: Grid, config: RunConfig, run: int = 0) -> RunFolder:
    """Run the configured strategy to its end and write its results, as private files; returns their folder.

    ``run``: Flower's id of the run, for the structured log; 0 where no SuperLink gave one.
    """
    check_run(config)
    say = Narrator()
    adapted = load_adapted_model(config.model, config.lora, config.seed)
    check_chat_template(config.data, adapted.tokenizer)
    check_length(adapted.model.get_base_model(), config.model.name, config.data.max_length)
    recipe = recipe_of(config, adapted.layout)
    nodes = connect(grid, config.federation.num_clients, config.federation.connect_timeout, say)
    check_evaluation_is_public(config.data, len(nodes), config.seed)
    plan = plan_run(config, recipe, len(nodes))
    folder = RunFolder.create(config)
    names = site_names(grid)
    with recording(folder.events, run, names):
        session = Session.open(config, adapted, recipe, plan, nodes, folder, say)
        strategy = session.strategy
        strategy.attendance.names = names
        say.opening(config, plan, adapted.layout.size, folder.path)
        if not config.resume:
            say.warning(empty_stage_one(recipe.stage_one, plan.clients, noisy=plan.noisy_stage_one))
        try:
            strategy.start(
                grid,
                pack_adapter(strategy.state.optimizer.adapter),
                num_rounds=config.num_server_rounds,
                timeout=config.federation.round_timeout,
            )
            session.finish()
        except BaseException:
            session.monitor.write("failed")
            raise
    return folder


def check_run(config: RunConfig) -> None:
    """Refuse what can be refused before a model is loaded or a client is waited for."""
    check_strategy_name(config.strategy.name)
    check_output(config)
    config.check_files()
    check_tensorboard(config)
    if config.resume:
        check_same_run(config)
        why = why_not_resumable(Path(config.resume))
        if why:  # before its folder is touched: a finished run's log is not written into
            raise CheckpointError(f'resume = "{config.resume}": {why}')


def plan_run(config: RunConfig, recipe: Recipe, clients: int) -> PrivacyPlan:
    """The privacy plan of a strategy for a number of enrolled clients; ``ConfigError`` where nothing could be run."""
    tensors = len(recipe.layout.tensors)
    return make_plan(config, clients, recipe.code_size, recipe.stage_one, tensors=tensors)


def open_account(config: RunConfig, recipe: Recipe, plan: PrivacyPlan, ledger: Ledger) -> PrivacyAccount:
    """The account of a run, which knows what one message of each stage reveals by itself."""
    message, stage = round_terms(config.privacy, plan, recipe.code_size), recipe.stage_one
    return PrivacyAccount(
        plan,
        ledger,
        message_noise=message.message_noise_multiplier,
        statistics_noise=stage_one_terms(config, plan, stage).message_noise_multiplier if stage else math.inf,
    )


@dataclass
class Session:
    """A strategy bound to its folder: what happens around the rounds."""

    config: RunConfig
    adapted: AdaptedModel
    folder: RunFolder
    strategy: FederatedAdapter
    watch: Watch
    evaluator: Evaluator | None
    validation: Evaluator | None
    retention: Evaluator | None
    scalars: Scalars | None
    say: Narrator
    monitor: Monitor
    scored: tuple[Tensor, MetricRecord] | None = None

    @classmethod
    def open(
        cls,
        config: RunConfig,
        adapted: AdaptedModel,
        recipe: Recipe,
        plan: PrivacyPlan,
        nodes: list[int],
        folder: RunFolder,
        say: Narrator,
    ) -> "Session":
        """Everything that lives as long as the run, fresh in ``folder`` or from the checkpoint there."""
        log_event("run_resumed" if config.resume else "run_started", app_digest=app_digest(), clients=len(nodes))
        ledger = Ledger(folder.ledger)
        if config.resume:
            state, progress = load_checkpoint(folder.checkpoint, config, adapted.layout)
            if not ledger.contains(progress.ledger_head):
                raise CheckpointError(f"{folder.ledger}: the ledger lacks charges that the checkpoint was made after")
            if progress.clients != len(nodes):
                raise CheckpointError(
                    f'resume = "{config.resume}": planned for {progress.clients} clients, {len(nodes)} are connected; '
                    "the guarantee was computed for that number: connect as many"
                )
        else:
            folder.write_config(config, len(nodes))
            state = RunState(ServerOptimizer(config.server, adapted.initial.cpu()))
            progress = Progress(0.0, ledger.head, len(nodes))
        account = open_account(config, recipe, plan, ledger)
        evaluator = _evaluator(adapted, config)
        kept = retention_examples(config.data, config.seed)
        retention = Evaluator(adapted, kept, config.data, config.evaluation) if kept else None
        others = validation_examples(config.data, config.seed)
        validation = Evaluator(adapted, others, config.data, config.evaluation) if others else None
        scalars = Scalars(folder.tensorboard, state.round + 1) if config.output.tensorboard else None
        watch = Watch(config.num_server_rounds, progress.elapsed)
        hooks = Hooks(lambda *_: None, lambda *_: None, lambda *_: None)
        strategy = strategy_of(config)(recipe, config, adapted, nodes, account, state, hooks)
        monitor = Monitor(folder, config.num_server_rounds, account, strategy.attendance)
        session = cls(config, adapted, folder, strategy, watch, evaluator, validation, retention, scalars, say, monitor)
        strategy.hooks = Hooks(session.evaluate, session.on_prepared, session.on_round, session.on_attendance)
        if not config.resume:
            session.evaluate_base()
        return session

    def evaluate_base(self) -> None:
        """Score the untouched model: row 0 of the metrics, and the yardstick of divergence."""
        metrics = self.evaluate(0, self.strategy.state.optimizer.adapter, whole=True)
        loss = judged_loss(metrics)[0] if metrics else math.inf
        if math.isnan(loss):
            raise ConfigError(
                f'data.evaluation = "{self.config.data.evaluation}": the base model\'s held-out loss is nan, so no '
                "round could be compared with it; look at model.dtype and at the rows"
            )
        self.strategy.state.base_loss = loss
        self._keep({"round": 0, **_plain(metrics)})
        self.say.base(metrics)

    def evaluate(self, server_round: int, adapter: Tensor, *, whole: bool = False) -> MetricRecord | None:
        """Held-out scores, in all and by group, and validation loss; retention if ``whole``; ``None`` without data.

        An adapter that was scored last, as the last round's is at the end, is not scored again.
        """
        if self.evaluator is None:
            return None
        step = f"round {server_round}" if server_round else "base model"
        with watched(f"{step}, evaluation", self.say), phase(step):
            return self._scores(self.evaluator, adapter, whole=whole)

    def _scores(self, evaluator: Evaluator, adapter: Tensor, *, whole: bool) -> MetricRecord:
        if self.scored is None or not torch.equal(self.scored[0], adapter):
            scores = _metrics(evaluator(adapter))
            if self.validation is not None:
                scores[VALIDATION_LOSS] = self.validation(adapter).loss
            self.scored = adapter.clone(), scores
        record = self.scored[1].copy()
        if whole and self.retention is not None:
            kept = self.retention(adapter)
            record["retention"] = kept.accuracy if kept.accuracy is not None else math.nan
        return record

    def on_prepared(self, state: RunState) -> None:
        """Stage 1 has ended: keep the codec, tell its quality."""
        log_event("codec_ready", round=state.round)
        self.say.prepared(state.prior, self.strategy.codec.size)
        self._save(state)

    def on_round(self, state: RunState, summary: RoundSummary, metrics: MetricRecord | None) -> None:
        """A round has ended: metrics line, checkpoint, one line for the person who watches."""
        self.watch.lap()
        line = {**summary.__dict__, "elapsed": self.watch.elapsed, **_plain(metrics)}
        line["epsilon"] = finite(summary.epsilon)
        line["epsilon_server"] = finite(summary.epsilon_server)
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

    def finish(self) -> None:
        """Certify epsilon, write adapter, report and plots, mark the run as ended; ``latest`` is this run now."""
        adapter = self.strategy.state.optimizer.adapter
        rounds = self.strategy.state.round
        scores = _plain(self.evaluate(rounds, adapter, whole=True))
        final = {"round": rounds, **scores} if scores else {}
        self.folder.save_adapter(self.adapted, adapter, self.config.model.name)
        report = write_report(self.folder, self.config, self.strategy, final, self.watch.elapsed)
        self.folder.publish(model_card(self.config, report))
        self.folder.point_latest()
        mark_ended(self.folder.checkpoint)
        if self.scalars is not None:
            self.scalars.close()
        self.monitor.write("completed")
        log_event("run_ended", round=rounds, reason=report["outcome"]["stopped_because"])
        self.say.closing(report)

    def _keep(self, line: dict[str, object]) -> None:
        self.folder.append_metrics(line)
        if self.scalars is not None:
            self.scalars.write(line)

    def _save(self, state: RunState) -> None:
        account = self.strategy.account
        progress = Progress(self.watch.elapsed, account.ledger_head, len(self.strategy.nodes))
        save_checkpoint(self.folder.checkpoint, state, progress)
        log_event("checkpoint_saved", round=state.round)


def _evaluator(adapted: AdaptedModel, config: RunConfig) -> Evaluator | None:
    examples = evaluation_examples(config.data, config.seed)
    return Evaluator(adapted, examples, config.data, config.evaluation) if examples is not None else None


def _metrics(result: Evaluation) -> MetricRecord:
    record = MetricRecord({"loss": result.loss})
    if result.accuracy is not None:
        record["accuracy"] = result.accuracy
    for group, value in result.loss_by_group.items():
        record[f"loss.{group}"] = value
    for group, value in result.accuracy_by_group.items():
        record[f"accuracy.{group}"] = value
    return record


def _plain(metrics: MetricRecord | None) -> dict[str, object]:
    return dict(metrics) if metrics is not None else {}
