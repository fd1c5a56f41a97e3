"""What a client has at hand: its configuration, its policy, its model and, only after the charge, its private rows."""

import json
import logging
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch
from flwr.app import Context, RecordDict
from transformers import PreTrainedTokenizerBase

from client_app.file_versions import Version, versions
from client_app.held_out import SHARE
from client_app.node_config import NodeConfig, brings_own_data, whole
from client_app.policy import SitePolicy
from client_app.rows import may_read_rows, message_name
from client_app.site_data import SiteData
from client_app.site_ledger import LimitReached, charge_release
from client_app.tokenizer_limits import check_tokenizer
from common import seeds
from common.adapter import RankCut
from common.config import DataConfig, LoraConfig, RunConfig, TrainConfig
from common.data import TokenizedExamples, private_tokens, split_rows
from common.model.adapted import AdaptedModel, load_adapted_model
from common.model.lora import with_rank
from common.privacy.noise import RandomSource
from common.wire.assignment import Task
from common.wire.digest import app_digest
from common.wire.secure import SecureTask

_log = logging.getLogger("flwr")
Part = Literal["stage one", "rounds", "held out"]


class CodeMismatch(RuntimeError):
    """Server and client run different code of this app."""


class ModelUnavailable(RuntimeError):
    """An accepted model, or the site's chat template for it, cannot be had here; why is in the site's own log."""


class NoRows(RuntimeError):
    """None of the site's own rows can be used; why is in its own log, from the first time that they were read."""


@dataclass(frozen=True)
class Site:
    """One client: who it is, what it allows and, with data of its own (``data``), how they may be used.

    ``lora``: the adapter that it trains, of the run's rank or the smaller one of its node configuration.
    """

    config: RunConfig
    partition: int
    partitions: int
    policy: SitePolicy
    data: SiteData | None
    lora: LoraConfig

    @classmethod
    def of(cls, context: Context) -> "Site":
        """The client that a Flower context describes. No row, file or model is touched."""
        node = context.node_config
        policy = SitePolicy.from_node_config(node)
        data = SiteData.from_node_config(node) if brings_own_data(node) else None
        partition, partitions = int(node.get("partition-id", 0)), int(node.get("num-partitions", 1))
        config = _config(json.dumps(context.run_config, sort_keys=True))
        return cls(config, partition, partitions, policy, data, own_lora(node, config.lora))

    def check(self, task: Task, train: TrainConfig, secure: SecureTask | None = None) -> None:
        """Refuse an instruction of other code (``CodeMismatch``) or beyond what the site allows (``PolicyRefusal``).

        ``train`` is the local training that the instruction asks for, ``secure`` under what its answer is masked.
        """
        if task.code_digest != app_digest():
            raise CodeMismatch(
                f"the server runs app code {task.code_digest}, this client runs {app_digest()}: submit and deploy the "
                "same version (a stray copy of the app on the import path also does this)"
            )
        self.policy.check(task.terms, raw=task.raw, secure=secure)
        if self.data is not None:
            self.data.check(self.config, train)

    def model(self) -> AdaptedModel:
        """The model that the run names, kept by its module; ``ModelUnavailable`` where a site cannot load it."""
        if self.data is None:
            return load_adapted_model(self.config.model, self.lora, self.config.seed)
        try:
            adapted = load_adapted_model(self.data.model(self.config.model), self.lora, self.config.seed)
            check_tokenizer(self.data.tokenizer(adapted.tokenizer))
        except Exception as error:  # whatever it was, its text may hold names of this machine
            _log.exception("the model or the chat template could not be loaded")
            what = "the model, or its own chat template"
            raise ModelUnavailable(f"this site cannot load {what}; why is in its own log") from error
        return adapted

    def cut(self, adapted: AdaptedModel) -> RankCut:
        """How the run's adapter and the site's own, which may be of a smaller rank, go into each other."""
        part = adapted.layout
        return RankCut(part if self.lora == self.config.lora else with_rank(part, self.config.lora.rank), part)

    def charge(self, task: Task, state: RecordDict, secure: SecureTask | None = None, *, spend: bool) -> bool:
        """Charge the release before it is made; whether it may be made of private rows.

        A site with its own data never says that its ledger is full: the answer is then the zero code with its noise,
        since "no" would tell one server what another has asked. A simulated client raises ``LimitReached``. A client
        that is not in the cohort (no ``spend``) is refused as a member would be, but releases nothing and is not
        charged. An attempt without rows is charged where the one that died over its message was not.
        """
        noise, message, rows = self.policy.noise_of(task.terms, secure), message_name(), may_read_rows()
        try:
            charge_release(state, self.policy, task.terms, raw=task.raw, noise=noise, spend=spend, message=message)
        except LimitReached as reached:
            if self.data is None:
                raise
            _log.warning("%s; the release is of nothing but noise", reached)
            return False
        return spend and rows

    def examples(self, adapted: AdaptedModel, share: float, part: Part) -> TokenizedExamples:
        """A part of the private examples: held out, those of stage 1, or those of the rounds.

        Held-out ones are in neither of the others; these two are the same unless stage 1 keeps a ``share`` to itself.
        Nothing is held out where the run does not evaluate privately.
        """
        who = (self.partition, self.partitions, self.config.seed)
        share = 0.0 if part == "held out" else share
        cut = _Cut(part, share, holds_out=bool(self.config.evaluation.private))
        if self.data is None:
            found = private_tokens(self.config.data, adapted.tokenizer, *who)
            return cut.of(found, self.partition, self.config.seed)
        settings = self.data.settings(self.config.data)
        _forget_changed(self.data.path)
        return _own_part(cut, settings, self.data.tokenizer(adapted.tokenizer), *who, self.data.path)

    def seed(self, round_index: int) -> int:
        """Seed of this client's batches and dropout in a round."""
        return seeds.of_client(self.config.seed, self.partition, round_index)

    def noise_source(self, round_index: int) -> RandomSource:
        """The operating system's randomness, in every round."""
        return RandomSource.system()


@dataclass(frozen=True)
class _Cut:
    """Which of a client's examples a part is."""

    part: Part
    share: float
    holds_out: bool

    def of(self, found: TokenizedExamples, partition: int, seed: int) -> TokenizedExamples:
        if self.holds_out:
            held, rest = split_rows(len(found), SHARE, seeds.of_held_out(seed, partition))
            found = found.select(held if self.part == "held out" else rest)
        if not self.share:
            return found
        first, rest = split_rows(len(found), self.share, seeds.of_split(seed, partition))
        return found.select(first if self.part == "stage one" else rest)


_seen: dict[str, list[tuple[str, Version]]] = {}
"""The files of folders of data as they were when they were read."""


def _forget_changed(path: str) -> None:
    """Read a folder's rows anew, once any file in it is another: a row that is withdrawn is withdrawn.

    Of a file the process that has read it ends (``client_app.resident``). A folder's files are looked at here, where
    the answer is charged and its time is that of rows.
    """
    if not may_read_rows() or not Path(path).is_dir():
        return
    found = versions(path, deep=True)
    if _seen.setdefault(path, found) != found:
        for kept in (_own_part, _read_once, private_tokens):
            kept.cache_clear()
        _seen[path] = found


@lru_cache(maxsize=5)  # as many as there are kinds of parts under one run's configuration
def _own_part(
    cut: _Cut, settings: DataConfig, tokenizer: PreTrainedTokenizerBase, place: int, places: int, seed: int, path: str
) -> TokenizedExamples:
    """A part of a site's own examples, cut once: anew for each answer, time would tell how many there are."""
    found = _read_once(settings, tokenizer, place, places, seed, path)
    if found is None:
        raise NoRows("none of the site's rows can be used")
    return cut.of(found, place, seed)


@lru_cache(maxsize=2)
def _read_once(
    settings: DataConfig, tokenizer: PreTrainedTokenizerBase, place: int, places: int, seed: int, path: str
) -> TokenizedExamples | None:
    """A site's own examples; ``None`` where there are none, kept as well: a cache alone keeps no exception.

    A file of which no row can be used was read anew for each answer, whose time told how long it is. What has failed
    for want of memory is tried again.
    """
    try:
        return private_tokens(settings, tokenizer, place, places, seed, path)
    except MemoryError:
        raise
    except BaseException:  # a panic of a tokenizer, which is written in Rust, is no ``Exception``
        _log.exception("the site's rows cannot be used; they are not read again until their file has changed")
    return None


@lru_cache(maxsize=2)
def _config(text: str) -> RunConfig:
    """Kept by its text: 1.0 and 1 are equal to Python, but one of them is refused, in whatever process."""
    torch.set_num_threads(1)  # simulated clients share the cores; one thread each is fastest
    return RunConfig.parse(json.loads(text))


def own_lora(node: NodeConfig, asked: LoraConfig) -> LoraConfig:
    """A run's adapter at the site's ``lora-rank`` where that is smaller; alpha over rank, by which it acts, stays."""
    rank = whole(node, "lora-rank", 0)
    if not 0 < rank < asked.rank:
        return asked
    return asked.model_copy(update={"rank": rank, "alpha": asked.alpha * rank / asked.rank})
