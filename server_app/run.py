"""One run from configuration to results: connect, plan, prepare, rounds, report."""

import logging
import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from flwr.app import MetricRecord
from flwr.serverapp import Grid
from torch import Tensor

from common.adapter import Layout
from common.app_digest import app_digest
from common.codecs import conv_code_size
from common.config import ConfigError, RunConfig, flatten
from common.data import check_chat_template, evaluation_examples, retention_examples, validation_examples
from common.models import AdaptedModel, load_adapted_model
from common.positions import check_length
from common.privacy.ledger import Ledger
from server_app.checkpoints import (
    CheckpointError,
    Progress,
    load_checkpoint,
    mark_ended,
    save_checkpoint,
)
from server_app.evaluation import Evaluation, Evaluator
from server_app.events import log_event, recording
from server_app.federation import connect
from server_app.optimizer import ServerOptimizer
from server_app.prior_settings import prior_settings
from server_app.privacy_account import PrivacyAccount
from server_app.privacy_plan import PrivacyPlan, make_plan, round_terms, stage_one_terms
from server_app.progress import Narrator, Watch
from server_app.report import write_report
from server_app.run_folder import RunFolder
from server_app.run_state import VALIDATION_LOSS, Hooks, RoundSummary, RunState, judged_loss, pack_adapter
from server_app.scalars import Scalars, check_tensorboard
from server_app.stage_one_risk import empty_stage_one
from server_app.strategies import STRATEGIES
from server_app.strategies.base import FederatedAdapter


def run_federation(grid: Grid, config: RunConfig, run: int = 0) -> RunFolder:
    """Run the configured strategy to its end and write its results; returns their folder.

    ``run``: Flower's id of the run, for the structured log; 0 where no SuperLink gave one.
    """
    check_run(config)
    say = Narrator()
    adapted = load_adapted_model(config.model, config.lora, config.seed)
    check_chat_template(config.data, adapted.tokenizer)
    check_length(adapted.model.get_base_model(), config.model.name, config.data.max_length)
    check_codec(config, adapted)
    nodes = connect(grid, config.federation.num_clients, config.federation.connect_timeout, say)
    plan = plan_run(config, adapted, len(nodes))
    folder = RunFolder.create(config)
    with recording(folder.events, run):
        session = Session.open(config, adapted, plan, nodes, folder, say)
        strategy = session.strategy
        say.opening(config, plan, adapted.layout.size, folder.path)
        say.warning("" if config.resume else empty_stage_one(config, plan, adapted.layout))
        strategy.start(
            grid,
            pack_adapter(strategy.state.optimizer.adapter),
            num_rounds=config.num_server_rounds,
            timeout=config.federation.round_timeout,
        )
        session.finish()
    return folder


def check_run(config: RunConfig) -> None:
    """Refuse what can be refused before a model is loaded or a client is waited for."""
    if config.strategy.name not in STRATEGIES:
        raise ConfigError(f'strategy.name = "{config.strategy.name}": registered are {", ".join(sorted(STRATEGIES))}')
    config.check_files()
    check_tensorboard(config)
    if config.resume:
        _check_same_run(config)


class HasLayout(Protocol):
    """A model, or only the shape of one."""

    @property
    def layout(self) -> Layout:
        """Where the adapter's tensors lie."""


def check_codec(config: RunConfig, adapted: HasLayout) -> None:
    """Refuse what the strategy could make no codec of for this adapter. Raises ``ConfigError``."""
    STRATEGIES[config.strategy.name].check(config, adapted.layout)


def plan_run(config: RunConfig, adapted: HasLayout, clients: int) -> PrivacyPlan:
    """The privacy plan for an adapter and a number of enrolled clients; ``ConfigError`` where nothing could be run."""
    check_codec(config, adapted)
    stage = STRATEGIES[config.strategy.name].stage_one(config, adapted.layout)
    tensors = len(adapted.layout.tensors)
    return make_plan(config, clients, code_size(config, adapted.layout), stage, tensors=tensors)


def open_account(config: RunConfig, adapted: AdaptedModel, plan: PrivacyPlan, ledger: Ledger) -> PrivacyAccount:
    """The account of a run, which knows what one message of each stage reveals by itself."""
    size = code_size(config, adapted.layout)
    message = round_terms(config.privacy, plan, size)
    stage = STRATEGIES[config.strategy.name].stage_one(config, adapted.layout)
    return PrivacyAccount(
        plan,
        ledger,
        message_noise=message.message_noise_multiplier,
        statistics_noise=stage_one_terms(config, plan, stage).message_noise_multiplier if stage else math.inf,
    )


def code_size(config: RunConfig, layout: Layout) -> int:
    """Values in a code of the configured strategy, which ``check_codec`` has let pass."""
    strategy = STRATEGIES[config.strategy.name]
    if strategy.sends_whole(config):
        return layout.size
    settings = prior_settings(config, layout)
    if settings.kind != "conv" or not strategy.learns_codec(config):
        return settings.size or layout.size
    return conv_code_size(layout.size, settings.depth)


def _check_same_run(config: RunConfig) -> None:
    """A run is resumed under the configuration that it was planned with, or its epsilon would mean nothing."""
    saved = RunConfig.parse(flatten(tomllib.loads((Path(config.resume) / "config.toml").read_text()))).flat()
    free = {"resume", "output.dir", "output.name", "output.tensorboard"}
    if not config.federation.num_clients:
        free.add("federation.num-clients")  # the number that is connected is checked against the plan's
    changed = [key for key, value in config.flat().items() if key not in free and saved[key] != value]
    if changed:
        lines = "; ".join(f"{key} was {saved[key]!r}, is {config.flat()[key]!r}" for key in changed)
        raise ConfigError(f'resume = "{config.resume}": the configuration differs from that run\'s: {lines}')


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

    @classmethod
    def open(
        cls,
        config: RunConfig,
        adapted: AdaptedModel,
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
        account = open_account(config, adapted, plan, ledger)
        evaluator = _evaluator(adapted, config)
        kept = retention_examples(config.data, config.seed)
        retention = Evaluator(adapted, kept, config.data, config.evaluation) if kept else None
        others = validation_examples(config.data, config.seed)
        validation = Evaluator(adapted, others, config.data, config.evaluation) if others else None
        scalars = Scalars(folder.tensorboard, state.round + 1) if config.output.tensorboard else None
        watch = Watch(config.num_server_rounds, progress.elapsed)
        hooks = Hooks(lambda *_: None, lambda *_: None, lambda *_: None)
        strategy = STRATEGIES[config.strategy.name](config, adapted, nodes, account, state, hooks)
        session = cls(config, adapted, folder, strategy, watch, evaluator, validation, retention, scalars, say)
        strategy.hooks = Hooks(session.evaluate, session.on_prepared, session.on_round)
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
        """Held-out scores, in all and by group, and validation loss; retention if ``whole``; ``None`` without data."""
        if self.evaluator is None:
            return None
        record = _metrics(self.evaluator(adapter))
        if self.validation is not None:
            record[VALIDATION_LOSS] = self.validation(adapter).loss
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
        line["epsilon"] = _number(summary.epsilon)
        line["epsilon_server"] = _number(summary.epsilon_server)
        self._keep(line)
        level = logging.WARNING if summary.shortage else logging.INFO
        log_event("round_finished", level=level, round=summary.round, cohort=summary.cohort, replies=summary.replies)
        self._save(state)
        self.say.round(summary, metrics, self.watch)

    def finish(self) -> None:
        """Certify epsilon, write adapter, report and plots, mark the run as ended."""
        adapter = self.strategy.state.optimizer.adapter
        rounds = self.strategy.state.round
        scores = _plain(self.evaluate(rounds, adapter, whole=True))
        final = {"round": rounds, **scores} if scores else {}
        self.folder.save_adapter(self.adapted, adapter)
        report = write_report(self.folder, self.config, self.strategy, final, self.watch.elapsed)
        mark_ended(self.folder.checkpoint)
        if self.scalars is not None:
            self.scalars.close()
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


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else "inf"
