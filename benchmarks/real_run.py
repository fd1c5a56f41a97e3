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

import torch
from flwr.app import MetricRecord
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.real_data import RealData, load_real_data, some_rows, test_file
from benchmarks.real_scores import compute_head_at_labels, token_loss, write
from benchmarks.seeded import SeededRandomness, seeded_clients
from client_app.app import gradient_of, make_app
from common.config import DataConfig, ModelConfig, RunConfig, Scalar
from common.data import load_examples
from common.model.adapted import AdaptedModel, load_adapted_model
from common.privacy.mechanism import ReleaseTerms
from common.proxy import quantize
from common.wire.records import release_bytes
from server_app.privacy.ledger import Ledger
from server_app.privacy.plan import PrivacyPlan
from server_app.rounds.availability import Attendance
from server_app.rounds.state import Hooks, RoundSummary, RunState, optimizer_of, pack_adapter
from server_app.run import check_run, plan_run
from server_app.session import open_account
from server_app.strategies import recipe_of, strategy_of
from server_app.strategies.base import FederatedAdapter
from workbench.compare.played import PlayedGrid
from workbench.evaluation.generation import Prompts, score_texts

COMMON: dict[str, Scalar] = {
    "num-server-rounds": 20,
    "federation.num-clients": 50,
    "model.dtype": "auto",
    "data.format": "e2e",
    "data.partitioner": "iid",
    "data.max-length": 384,
    "train.batch-size": 8,
    "stage-one.sampling-rate": 1.0,
    "privacy.sampling-rate": 1.0,
    "privacy.delta": 0.0,
    "privacy.trust": "central",
    "evaluation.every": 10,
    "server.divergence-factor": 1.02,
}
"""Keys of every row; a row's own come after them."""

BASE, MEAN = "base", "-mean"
"""Id of the base model's row; what follows a row's id in that of the mean adapter of its second half."""


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


def run_row(place: Place, own: Mapping[str, Scalar]) -> dict[str, Any]:
    """Run ``own`` keys on top of ``COMMON`` and return the record; the adapter is saved in ``place.out/adapters``.

    Noise and cohorts come from the seed, so that a row can be repeated; epsilon is that of the same keys in a real run.
    """
    started = time.monotonic()
    keys: dict[str, Scalar] = {**COMMON, "model.name": place.model, "data.name": place.model, **own}
    settings = RunConfig.parse(keys)
    check_run(settings)
    adapted = _model(settings)
    public = public_of(place, settings, adapted)
    config = RunConfig.parse(keys | {"data.name": str(public.data.train)})
    promised = plan_run(config, recipe_of(config, adapted.layout), config.federation.num_clients)
    course = Course()
    with tempfile.TemporaryDirectory() as scratch:
        strategy = _strategy(config, adapted, public, course, Path(scratch))
        grid = PlayedGrid(make_app(gradient_of, seeded_clients(config.seed)), config, place.players)
        start = pack_adapter(strategy.state.optimizer.adapter)
        strategy.start(grid, start, num_rounds=config.num_server_rounds, timeout=math.inf)
    adapter = strategy.state.optimizer.adapter
    name = row_key(own, place.players)
    save_adapter(place, name, adapter)
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
    if course.late:
        record["late_mean"] = _late_mean(place, name, adapted, public.data, course)
    return record | {"seconds": round(time.monotonic() - started, 1)}


def _late_mean(place: Place, name: str, adapted: AdaptedModel, data: RealData, course: Course) -> float:
    """Validation loss of the mean adapter of the second half of the rounds, which is saved beside the last one."""
    average = torch.stack(course.late).mean(dim=0)
    save_adapter(place, f"{name}{MEAN}", average)
    return token_loss(adapted, average, data.validation)


def base_row(place: Place, own: Mapping[str, Scalar]) -> dict[str, Any]:
    """The base model as a row that is scored like others."""
    adapted, config = model_of(place, own)
    start = adapted.initial.cpu()
    save_adapter(place, BASE, start)
    return {"id": BASE, "keys": dict(own), "validation": {0: public_of(place, config, adapted).base_loss}}


def scored_losses(place: Place, own: Mapping[str, Scalar], name: str) -> dict[str, Any]:
    """Losses of a saved adapter that are reported and never chosen by: on test rows, and by kind of other texts.

    Of FEDLPP's on test rows, too, those of the proxy that clients would have of it.
    """
    adapted, config = model_of(place, own)
    data, adapter = public_of(place, config, adapted).data, saved_adapter(place, name)
    kept = {kind: token_loss(adapted, adapter, texts) for kind, texts in data.retention.items()}
    found = {"test": token_loss(adapted, adapter, data.test), "retention": kept}
    if config.strategy.name != "fedlpp":
        return found
    proxy = quantize(adapter, adapted.layout, config.fedlpp.bits).dequantize(adapted.layout)
    return found | {"proxy": token_loss(adapted, proxy, data.test)}


def scored_texts(place: Place, own: Mapping[str, Scalar], name: str, every: int, beams: int) -> dict[str, Any]:
    """BLEU against all references of a prompt, and ROUGE: a saved adapter on one test prompt in ``every``."""
    adapted, config = model_of(place, own)
    rows = load_examples(str(test_file(place.data, config.data)), config.data)
    chosen = Prompts.of(some_rows(rows, every, len(rows)), config.data, adapted, None)
    texts = write(adapted, saved_adapter(place, name), chosen.texts, config.data, beams=beams)
    return {"prompts": len(texts), **score_texts(texts, chosen.references), "samples": texts[:3]}


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
    recipe = recipe_of(config, adapted.layout)
    account = open_account(recipe, plan_run(config, recipe, clients), Ledger(scratch / "ledger.jsonl"))
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
    state = RunState(optimizer_of(config.server, start), base_loss=base)
    hooks = Hooks(evaluate, lambda _: None, note)
    attendance = Attendance(list(range(1, clients + 1)), {}, config.federation)
    randomness = SeededRandomness(config.seed, config.seed)
    return strategy_of(config)(recipe, config, adapted, attendance, account, state, hooks, randomness=randomness)


def _plan_figures(plan: PrivacyPlan) -> dict[str, Any]:
    return {
        "clients": plan.clients,
        "delta": plan.delta,
        "noise_multiplier": plan.round.noise_multiplier,
        "statistics_noise_multiplier": plan.stage_one.noise_multiplier if plan.stage_one else 0.0,
        "epsilon": plan.epsilon if math.isfinite(plan.epsilon) else "inf",
    }


def _bytes_up(plan: PrivacyPlan, size: int, config: RunConfig) -> int:
    """Serialized bytes of one client's message in the default trust model, ``distributed``."""
    noise = plan.round.noise_multiplier
    terms = ReleaseTerms(size, config.privacy.clip_norm, noise, "distributed", plan.shares, normalize=True)
    return release_bytes(terms)


def save_adapter(place: Place, name: str, adapter: Tensor) -> None:
    """Keep an adapter (shape ``[n]``) for scoring."""
    folder = place.out / "adapters"
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"adapter": adapter.contiguous()}, folder / f"{name}.safetensors")
