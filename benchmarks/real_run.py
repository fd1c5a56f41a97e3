"""One run of the app's own strategy on a real model in this process: from keys to a record of what it reached."""

import hashlib
import json
import math
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import MetricRecord
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.real_data import RealData, load_real_data
from benchmarks.real_scores import compute_head_at_labels, token_loss
from client_app.app import app as client_app
from common.config import DataConfig, ModelConfig, RunConfig, Scalar
from common.models import AdaptedModel, load_adapted_model
from common.privacy.ledger import Ledger
from common.privacy.mechanism import ReleaseTerms
from common.privacy.sampling import key_from_seed
from common.wire import pack_release, serialised_bytes
from compare.played import PlayedGrid
from server_app.optimizer import ServerOptimizer
from server_app.privacy_plan import PrivacyPlan
from server_app.run import check_run, open_account, plan_run
from server_app.run_state import Hooks, RoundSummary, RunState, pack_adapter
from server_app.strategies import STRATEGIES
from server_app.strategies.base import FederatedAdapter

COMMON: dict[str, Scalar] = {
    "num-server-rounds": 20,
    "federation.num-clients": 50,
    "model.dtype": "bfloat16",
    "data.format": "e2e",
    "data.partitioner": "iid",
    "data.max-length": 384,
    "train.batch-size": 8,
    "statistics.sampling-rate": 1.0,
    "privacy.sampling-rate": 1.0,
    "privacy.delta": 0.0,
    "privacy.trust": "central",
    "evaluation.every": 10,
}
"""Keys of every row; a row's own come after them."""


@dataclass(frozen=True)
class Place:
    """The model folder, the folder of public data, the folder of results, and how many clients play a cohort."""

    model: str
    data: Path
    out: Path
    players: int


@dataclass(frozen=True)
class Public:
    """Public data as tokens, and the base model's loss on the validation rows."""

    data: RealData
    base_loss: float


@dataclass
class Course:
    """What is noted while a run goes on, by round where it is by round.

    ``late``: adapters after the first half of the rounds; their mean is free (post-processing) and carries less noise.
    """

    losses: dict[int, float] = field(default_factory=dict)
    lengths: dict[int, float] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    bytes_down: int = 0
    late: list[Tensor] = field(default_factory=list)


def row_key(keys: Mapping[str, Scalar], players: int) -> str:
    """Identity of a run: its keys (the seed included) and how many play."""
    text = json.dumps([players, {key: str(value) for key, value in sorted(keys.items())}])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def run_row(place: Place, own: Mapping[str, Scalar], *, final: bool) -> dict[str, Any]:
    """Run ``own`` keys on top of ``COMMON`` and return the record; the adapter is saved in ``place.out/adapters``.

    ``final``: also the loss on test rows and on passages of other kinds. The noise comes from the seed, so that a row
    can be repeated; epsilon is that of the same keys with secure noise.
    """
    started = time.monotonic()
    seed = int(own.get("seed", 1))
    keys: dict[str, Scalar] = {**COMMON, "model.name": place.model, "data.name": place.model, **own}
    settings = RunConfig.parse(keys)
    check_run(settings)
    adapted = _model(settings)
    public = public_of(place, settings, adapted)
    keys |= {"data.name": str(public.data.train), "privacy.insecure-seed": seed}
    config = RunConfig.parse(keys)
    promised = plan_run(RunConfig.parse(keys | {"privacy.insecure-seed": -1}), adapted, config.federation.num_clients)
    course = Course()
    with tempfile.TemporaryDirectory() as scratch:
        strategy = _strategy(config, adapted, public, course, Path(scratch))
        grid = PlayedGrid(client_app, config, place.players)
        start = pack_adapter(strategy.state.optimizer.adapter)
        strategy.start(grid, start, num_rounds=config.num_server_rounds, timeout=math.inf)
    adapter = strategy.state.optimizer.adapter
    name = row_key(own, place.players)
    _save(place, name, adapter)
    record = {
        "id": name,
        "keys": dict(own),
        "players": place.players,
        "plan": _plan_figures(promised),
        "values": {"adapter": adapted.layout.size, "code": strategy.codec.size},
        "bytes_up": _bytes_up(promised, strategy.codec.size, config),
        "bytes_down": course.bytes_down,
        "validation": course.losses,
        "moved": course.lengths,
        "rounds": strategy.state.round,
        "stopped": strategy.stop_reason,
        "round_seconds": round(sum(course.seconds) / max(1, len(course.seconds)), 2),
    }
    if final:
        record |= final_losses(adapted, public.data, adapter)
    if course.late:
        record["late_mean"] = _late_mean(place, name, adapted, public.data, course, final=final)
    return record | {"seconds": round(time.monotonic() - started, 1)}


def final_losses(adapted: AdaptedModel, data: RealData, adapter: Tensor) -> dict[str, Any]:
    """Losses that are reported and never chosen by."""
    kept = {name: token_loss(adapted, adapter, texts) for name, texts in data.retention.items()}
    return {"test": token_loss(adapted, adapter, data.test), "retention": kept}


def _late_mean(
    place: Place, name: str, adapted: AdaptedModel, data: RealData, course: Course, *, final: bool
) -> dict[str, Any]:
    """Scores of the mean adapter of the second half of the rounds, which is saved beside the last one."""
    average = torch.stack(course.late).mean(dim=0)
    _save(place, f"{name}-mean", average)
    found: dict[str, Any] = {"validation": token_loss(adapted, average, data.validation)}
    return found | final_losses(adapted, data, average) if final else found


def base_record(place: Place, own: Mapping[str, Scalar]) -> dict[str, Any]:
    """The same scores of the base model."""
    settings = RunConfig.parse({**COMMON, "model.name": place.model, "data.name": place.model, **own})
    adapted = _model(settings)
    public = public_of(place, settings, adapted)
    start = adapted.initial.cpu()
    name = row_key({**own, "base": "base"}, 0)
    _save(place, name, start)
    scores = {"validation": {0: public.base_loss}, **final_losses(adapted, public.data, start)}
    return {"id": name, "keys": dict(own), "label": "base", **scores}


def saved_adapter(place: Place, name: str) -> Tensor:
    """The adapter that the run of this id ended with."""
    return load_file(place.out / "adapters" / f"{name}.safetensors")["adapter"]


def model_of(place: Place, own: Mapping[str, Scalar]) -> tuple[AdaptedModel, RunConfig]:
    """The model of a row and its configuration, for scoring."""
    settings = RunConfig.parse({**COMMON, "model.name": place.model, "data.name": place.model, **own})
    return _model(settings), settings


def _model(config: RunConfig) -> AdaptedModel:
    adapted = load_adapted_model(config.model, config.lora, config.seed)
    compute_head_at_labels(adapted)
    return adapted


_public: dict[tuple[Place, ModelConfig, DataConfig], Public] = {}


def public_of(place: Place, config: RunConfig, adapted: AdaptedModel) -> Public:
    """Data and base loss, found once for a process: a fresh adapter of any seed and rank changes nothing."""
    key = (place, config.model, config.data)
    if key not in _public:
        data = load_real_data(place.data, place.out / "data", config.data, adapted.tokenizer)
        _public[key] = Public(data, token_loss(adapted, adapted.initial, data.validation))
    return _public[key]


def _strategy(
    config: RunConfig, adapted: AdaptedModel, public: Public, course: Course, scratch: Path
) -> FederatedAdapter:
    clients = config.federation.num_clients
    account = open_account(config, adapted, plan_run(config, adapted, clients), Ledger(scratch / "ledger.jsonl"))
    start, base, data = adapted.initial.cpu(), public.base_loss, public.data

    def evaluate(server_round: int, adapter: Tensor) -> MetricRecord:
        course.losses[server_round] = token_loss(adapted, adapter, data.validation)
        course.lengths[server_round] = float((adapter - start).norm())
        return MetricRecord({"loss": course.losses[server_round]})

    def note(state: RunState, summary: RoundSummary, metrics: MetricRecord | None) -> None:
        course.seconds.append(summary.seconds)
        if 2 * summary.round > config.num_server_rounds:
            course.late.append(state.optimizer.adapter)
        course.bytes_down = summary.bytes_down // max(1, summary.cohort)
        loss = f"  validation {course.losses[summary.round]:.4f}" if metrics else ""
        failed = f"  {summary.failure}" if summary.failure else ""
        print(f"  round {summary.round}  {summary.seconds:.1f} s{loss}{failed}", flush=True)

    course.losses[0] = base
    state = RunState(ServerOptimizer(config.server, start), key_from_seed(config.seed), base_loss=base)
    hooks = Hooks(evaluate, lambda _: None, note)
    nodes = list(range(1, clients + 1))
    return STRATEGIES[config.strategy.name](config, adapted, nodes, account, state, hooks)


def _plan_figures(plan: PrivacyPlan) -> dict[str, Any]:
    return {
        "clients": plan.clients,
        "delta": plan.delta,
        "noise_multiplier": plan.round.noise_multiplier,
        "statistics_noise_multiplier": plan.statistics.noise_multiplier if plan.statistics else 0.0,
        "epsilon": plan.epsilon if math.isfinite(plan.epsilon) else "inf",
    }


def _bytes_up(plan: PrivacyPlan, size: int, config: RunConfig) -> int:
    """Serialised bytes of one client's message in the default trust model, ``distributed``."""
    noise = plan.round.noise_multiplier
    terms = ReleaseTerms(size, config.privacy.clip_norm, noise, "distributed", plan.shares, normalize=True)
    return serialised_bytes(pack_release(np.zeros(size, dtype=terms.dtype), 1))


def _save(place: Place, name: str, adapter: Tensor) -> None:
    folder = place.out / "adapters"
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"adapter": adapter.contiguous()}, folder / f"{name}.safetensors")
