"""``dr-encoder plan``: what a run needs and what it gives, before anything is downloaded."""

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

from common.config import RunConfig
from common.counts import count
from common.model.positions import check_length
from common.model.precision import dtype_name
from common.privacy.mechanism import ReleaseTerms
from common.wire.secure import bits_of
from server_app.privacy.account import assumptions
from server_app.privacy.plan import PrivacyPlan, why_infinite
from server_app.results.json_lines import finite
from server_app.results.run_bytes import RunBytes, plain_lora_bytes, run_bytes
from server_app.results.units import bytes_against_lora, clock, data_size, show, show_delta, show_multiplier
from server_app.rounds.secure import bytes_of_answer, set_up_bytes
from server_app.run import plan_run
from server_app.strategies import check_strategy, recipe_of
from workbench.planning.architectures import Shape, shape_of
from workbench.planning.memory import Memory, ServerMemory, estimate, estimate_server
from workbench.planning.step import Batch, batches_of, step_seconds

SIMULATED_CLIENTS = 10
"""Clients of a simulation when the configuration does not say."""
_USABLE = 0.95  # of a card's memory
_HUNDREDTH = 0.01  # of a second
_SHARES = 10_000  # Ray counts in ten-thousandths of a card
_CARDS = {"one 24 GB": (24, 1), "one 80 GB": (80, 1), "four 24 GB": (24, 4), "four 80 GB": (80, 4)}


@dataclass(frozen=True)
class Placement:
    """How a simulation fits a set of cards: clients at a time, and the GPU share that says so to Flower."""

    cards: str
    clients_at_a_time: int
    gpus_per_client: float
    deployed: bool


@dataclass(frozen=True)
class Sizes:
    """The answer, as counts, bytes and figures of the privacy plan."""

    config: RunConfig
    shape: Shape
    privacy: PrivacyPlan
    code_values: int
    code_dtype: str
    bytes_reply: int
    per_client: RunBytes
    plain_lora: RunBytes
    batch: Batch
    longest: Batch
    step_seconds: float | None
    memory: Memory
    server: ServerMemory
    placements: tuple[Placement, ...]


def solve(config: RunConfig) -> Sizes:
    """Work out a configuration; a few seconds, no network.

    Raises ``ConfigError`` for a strategy that is not registered, a model whose shape is not known, examples longer than
    its positions, and a budget that cannot be met.
    """
    check_strategy(config)
    shape = shape_of(config.model, config.lora)
    check_length(shape.model.get_base_model(), config.model.name, config.data.max_length)
    recipe = recipe_of(config, shape.layout)
    plan = plan_run(config, recipe, config.federation.num_clients or SIMULATED_CLIENTS)
    size = recipe.code_size
    terms = plan.round_terms(size)
    batch, longest = batches_of(config, plan.clients)
    memory = estimate(config, shape, longest, recipe)
    server = estimate_server(config, shape, recipe)
    return Sizes(
        config=config,
        shape=shape,
        privacy=plan,
        code_values=size,
        code_dtype=f"{bits_of(terms)}-bit integers, masked" if plan.trust == "secure" else str(terms.dtype),
        bytes_reply=bytes_of_answer(terms),
        per_client=run_bytes(config, recipe, plan, plan.rounds),
        plain_lora=plain_lora_bytes(config, recipe, plan, plan.rounds),
        batch=batch,
        longest=longest,
        step_seconds=step_seconds(config, shape, batch),
        memory=memory,
        server=server,
        placements=tuple(_place(name, *cards, plan.clients, server, memory) for name, cards in _CARDS.items()),
    )


def _plain(terms: ReleaseTerms) -> int:
    """Bytes of all values under terms, and nothing around them."""
    return math.ceil(terms.size * (bits_of(terms) / 8 if terms.trust == "secure" else terms.dtype.itemsize))


def _place(name: str, gigabytes: int, cards: int, clients: int, server: ServerMemory, memory: Memory) -> Placement:
    """A simulation keeps the server's model on the first card, and one model for every client at a time.

    Ray places clients by their share of a card alone and knows nothing of the server's model, so no card is promised
    more clients than the first one takes, nor all of them together more than there are.
    """
    room = _USABLE * gigabytes * 1e9
    first = min(max(0, math.floor((room - server.on_card) / memory.on_card)), math.ceil(clients / cards))
    share = math.floor(_SHARES / first) / _SHARES if first else 0.0
    return Placement(name, min(cards * first, clients), share, math.floor(room / memory.on_card) > 0)


def to_json(config: RunConfig) -> str:
    """The answer for programs; infinities are the text "inf"."""
    sizes = solve(config)
    plan, memory = sizes.privacy, sizes.memory
    answer: dict[str, Any] = {
        "model": config.model.name,
        "strategy": config.strategy.name,
        "parameters": sizes.shape.parameters,
        "adapter_values": sizes.shape.layout.size,
        "adapter_tensors": len(sizes.shape.layout.tensors),
        "adapter_bytes": 4 * sizes.shape.layout.size,
        "code_values": sizes.code_values,
        "code_dtype": sizes.code_dtype,
        "per_client_run": sizes.per_client.figures(),
        "per_client_run_plain_lora": sizes.plain_lora.figures(),
        "step": asdict(sizes.batch) | {"cpu_seconds": sizes.step_seconds},
        "longest_step": asdict(sizes.longest),
        "cpu_seconds_of_all_clients": run_seconds(sizes),
        "memory_per_client": {**asdict(memory), "total": memory.total},
        "memory_of_server": {**asdict(sizes.server), "total": sizes.server.total},
        "clients": plan.clients,
        "expected_cohort": plan.expected_cohort,
        "clients_asked_per_round": plan.clients_asked(cover=config.federation.cover),
        "expected_bytes_up": round(sizes.per_client.up * plan.clients),
        "expected_bytes_down": round(sizes.per_client.down * plan.clients),
        "rounds": plan.rounds,
        "noise_multiplier": plan.round.noise_multiplier,
        "statistics_noise_multiplier": plan.stage_one.noise_multiplier if plan.stage_one else None,
        "evaluations": plan.evaluations,
        "evaluation_noise_multiplier": plan.evaluation.noise_multiplier if plan.evaluation else None,
        "evaluation_errors": dict(zip(("loss", "accuracy"), plan.score_noise, strict=True)),
        "epsilon": finite(plan.epsilon),
        "not_private_because": why_infinite(plan.reason, plan.epsilon),
        "delta": plan.delta,
        "noise_over_signal": _noise_over_signal(sizes),
        "client_resources": [asdict(placement) for placement in sizes.placements],
    }
    return json.dumps(answer, indent=2, allow_nan=False)


def to_text(config: RunConfig) -> str:
    """The answer for people."""
    sizes = solve(config)
    plan, memory, values = sizes.privacy, sizes.memory, sizes.shape.layout.size
    kept = "with checkpointing" if memory.checkpointing else "without checkpointing"
    stage_one = f", {show_multiplier(plan.stage_one.noise_multiplier, 4)} (stage 1)" if plan.stage_one else ""
    reason = why_infinite(plan.reason, plan.epsilon)
    lines = [
        f"{config.strategy.name} on {config.model.name}",
        f"  parameters                  {sizes.shape.parameters:,}",
        f"  adapter                     {count(values, 'value')} in "
        f"{count(len(sizes.shape.layout.tensors), 'tensor')}, {data_size(4 * values)} as float32",
        f"  code                        {count(sizes.code_values, 'value')} of {sizes.code_dtype}",
        f"  one client, whole run       {bytes_against_lora(sizes.per_client.figures(), sizes.plain_lora.figures())}",
        f"  for each round it is asked  {data_size(sizes.per_client.per_round(sizes.per_client.both))} both ways, "
        f"of which {data_size(sizes.bytes_reply)} are its reply",
        *_cover_line(sizes),
        f"  memory of one client        {data_size(memory.total)} in a step of {sizes.longest.rows} x "
        f"{sizes.longest.length} tokens ({_tokens(sizes.longest)}), {kept}; an estimate",
        f"    weights                   {data_size(memory.weights)} ({_weights(config)})",
        f"    adapter and gradients     {data_size(memory.adapter)}",
        f"    codec                     {data_size(memory.codec)}",
        f"    activations               {data_size(memory.activations)}; with checkpointing "
        f"{data_size(memory.activations_checkpointed)}",
        f"  memory of the server        at most {data_size(sizes.server.total)}, of which "
        f"{data_size(sizes.server.evaluation)} in a pass over held-out rows; an estimate",
        f"  clients                     {plan.clients:,}, expected cohort {plan.expected_cohort:g}, "
        f"{count(plan.rounds, 'round')} of {_work(config)}",
        *_time_line(sizes),
        f"  noise multiplier            {show_multiplier(plan.round.noise_multiplier, 4)} (stage 2){stage_one}",
        *_evaluation_line(sizes),
        f"  epsilon, released model     {show(plan.epsilon)} at delta {show_delta(plan.delta)} "
        f"({reason or assumptions(plan)})",
        *_noise_line(sizes),
        "  a simulation on             clients at a time   options of dr-encoder run             deployed, one a card",
        *(f"    {_placement(placement)}" for placement in sizes.placements),
    ]
    return "\n".join(lines)


def _evaluation_line(sizes: Sizes) -> list[str]:
    plan = sizes.privacy
    if plan.evaluation is None:
        return []
    loss, accuracy = plan.score_noise
    return [
        f"  private evaluations         {plan.evaluations}, of everybody: each accuracy ± {100 * accuracy:.1f} points, "
        f"each loss ± {loss:.3f} nats by noise"
    ]


def _cover_line(sizes: Sizes) -> list[str]:
    secure = sizes.privacy.trust == "secure"
    if not (sizes.config.federation.cover or secure):
        return []
    up, down = (data_size(ways * sizes.privacy.clients) for ways in (sizes.per_client.up, sizes.per_client.down))
    what = "secure aggregation" if secure else "with cover traffic"
    lines = [f"  {what:<27} {up} up and {down} down in all: everybody is asked in every round"]
    if secure:
        keys_up, keys_down = map(data_size, set_up_bytes(sizes.privacy.clients))
        lines.append(f"  key set-up, once a run      {keys_up} up and {keys_down} down per client, of the above")
    return lines


def _tokens(batch: Batch) -> str:
    if batch.read:
        return f"at most by the data, {batch.labels:,} of them learned"
    return "the most there can be, all learned"


def _time_line(sizes: Sizes) -> list[str]:
    if sizes.step_seconds is None:
        return []
    whole = run_seconds(sizes)
    total = f"; all clients and rounds {clock(whole)} (minutes:seconds) of a core" if whole else ""
    seconds = f"{sizes.step_seconds:.2f}" if sizes.step_seconds >= _HUNDREDTH else f"{sizes.step_seconds:.1g}"
    step = f"{seconds} s of a core ({sizes.batch.rows} x {sizes.batch.length} tokens)"
    return [f"  time of a usual step        {step}, timed here on two layers{total}"]


def run_seconds(sizes: Sizes) -> float | None:
    """CPU seconds of all clients' steps, stage 1 among them; ``None`` where passes over unread data are asked for."""
    train, stage = sizes.config.train, sizes.privacy.stage_one
    if sizes.step_seconds is None or not train.local_steps:
        return None
    first = sizes.config.stage_one
    steps = sizes.privacy.rounds * sizes.privacy.expected_cohort * train.local_steps
    if stage is not None:
        steps += first.sampling_rate * sizes.privacy.clients * first.steps
    return steps * train.gradient_accumulation * sizes.step_seconds


def _noise_line(sizes: Sizes) -> list[str]:
    ratio = _noise_over_signal(sizes)
    return [f"  noise over signal           {ratio:.2f} in a round, at best (docs/models-and-data.md)"] if ratio else []


def _noise_over_signal(sizes: Sizes) -> float:
    """Norm of the noise in the mean code, z C √k / K, over the largest norm that the mean code can have, C."""
    plan = sizes.privacy
    noise = plan.round_terms(sizes.code_values).noise_multiplier  # more than z with colluders
    return noise * math.sqrt(sizes.code_values) / plan.expected_cohort


def _placement(placement: Placement) -> str:
    deployed = "yes" if placement.deployed else "no"
    if not placement.clients_at_a_time:
        hint = "does not fit: model.quantization = 4, model.gradient-checkpointing, train.batch-size"
        return f"{placement.cards:<26}{hint}; deployed: {deployed}"
    options = f"--gpus-per-client {placement.gpus_per_client:g} --cpus {placement.clients_at_a_time}"
    return f"{placement.cards:<26}{placement.clients_at_a_time:<20}{options:<38}{deployed}"


def _weights(config: RunConfig) -> str:
    model = config.model
    return dtype_name(model) if model.quantization == "none" else f"{model.quantization}-bit, the rest float32"


def _work(config: RunConfig) -> str:
    train = config.train
    return count(train.local_epochs, "local epoch") if train.local_epochs else count(train.local_steps, "local step")
