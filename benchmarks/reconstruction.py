"""What a code captures of synthetic and of real gradients: ``python -m benchmarks.reconstruction --help``.

AN EXPERIMENT ONLY: it reads the clients' statistics and gradients in the clear, without noise, which no run does.
It builds every AutoEncoder of ``codec.kind`` and ``codec.form`` from the statistics of stage 1 and measures it on
synthetic gradients, on clients' gradients at the start (B = 0) and after a few rounds of plain LoRA, and on the
average of the latter. The control decodes a code of zeros: what that captures, the decoder knows without a code.
"""

import argparse
from collections.abc import Iterable, Iterator
from statistics import mean, stdev
from typing import NamedTuple

import torch
from torch import Tensor

from client_app.local_update import gradient_stream, local_update
from client_app.statistics import gradient_statistics
from common.adapter import Layout
from common.codecs import Codec, GradientStatistics
from common.config import RunConfig
from common.data import TokenisedExamples, private_tokens
from common.models import AdaptedModel, load_adapted_model
from common.scale_code import ScaleCode
from server_app.command_line import main_with_plain_errors
from server_app.launcher import read_preset
from server_app.prior import QUALITY_SAMPLES, SyntheticGradients, train_prior
from server_app.prior_settings import prior_settings
from server_app.privacy_plan import make_plan, statistics_stage

CODECS: dict[str, dict[str, str | int]] = {
    "linear, global": {"codec.form": "global"},
    "linear, global, mixed buckets": {"codec.form": "global", "codec.transform": "mixed-buckets"},
    "linear, per-tensor": {"codec.form": "per-tensor"},
    "linear, variance-proportional": {"codec.form": "variance-proportional"},
    "linear, optimum": {"codec.form": "optimum"},
    "linear, trained": {"codec.form": "trained"},
    "conv": {"codec.kind": "conv", "codec.size": 0},
    "identity": {"codec.kind": "identity", "codec.size": 0},
}
"""The keys that make each AutoEncoder; all others are the demo's."""


class Captured(NamedTuple):
    """Means over gradients of 1 - ‖x - x̂‖²/‖x‖²; below 0 where x̂ = 0 were better.

    ``best_scale`` takes the multiple of x̂ that is nearest to x in its place: the squared cosine.
    """

    energy: float
    best_scale: float


class Measured(NamedTuple):
    """One seed: every AutoEncoder's size of code and captures by column, and the energy's share in A by column."""

    codecs: dict[str, tuple[int, dict[str, Captured]]]
    share_of_a: dict[str, float]


class Federation(NamedTuple):
    """The embedded model and the tokens of all clients of one seed."""

    config: RunConfig
    adapted: AdaptedModel
    tokens: list[TokenisedExamples]

    @classmethod
    def of(cls, config: RunConfig, clients: int) -> "Federation":
        """Load the model and split the demo's data among the clients."""
        adapted = load_adapted_model(config.model, config.lora, config.seed)
        tokens = [private_tokens(config.data, adapted.tokenizer, i, clients, config.seed) for i in range(clients)]
        return cls(config, adapted, tokens)

    def streams(self) -> Iterator[Iterator[Tensor]]:
        """For every client the gradients (shape ``[n]`` each) that its stage 1 measures, in the clear."""
        settings = self.config.statistics
        changes = {"local_steps": settings.steps, "local_epochs": 0, "learning_rate": settings.learning_rate}
        train = self.config.train.model_copy(update=changes)
        for client, examples in enumerate(self.tokens):
            yield gradient_stream(self.adapted, self.adapted.initial, examples, train, client)

    def statistics(self) -> GradientStatistics:
        """What stage 1 estimates, without noise: every tensor's deviation, root mean square over the clients."""
        layout, settings = self.adapted.layout, self.config.statistics
        stds = [gradient_statistics(stream, layout, settings).std for stream in self.streams()]
        std = torch.stack(stds).square().mean(dim=0).sqrt()
        return GradientStatistics(torch.zeros_like(std), std)

    def gradients(self, adapter: Tensor, round_index: int) -> Tensor:
        """The gradient that every client would encode in a round: shape ``[clients, n]``."""
        first = (1 + round_index) * len(self.tokens)
        rows = [
            local_update(self.adapted, adapter, examples, self.config.train, first + client)
            for client, examples in enumerate(self.tokens)
        ]
        return torch.stack(rows)

    def after(self, rounds: int) -> Tensor:
        """The adapter (shape ``[n]``) after rounds of plain LoRA: everybody takes part, no code, no noise."""
        adapter = self.adapted.initial.clone()
        step = RunConfig.parse(read_preset("lora")).server.learning_rate
        for round_index in range(rounds):
            adapter -= step * self.gradients(adapter, round_index).mean(dim=0)
        return adapter


def captured(codec: Codec, gradients: Tensor, *, zeroed: bool = False) -> Captured:
    """Mean capture of the gradients (shape ``[m, n]``, none of them zero); ``zeroed`` replaces each code by zeros."""
    energies, best = [], []
    for gradient in gradients:
        code = codec.encode(gradient)
        decoded = codec.decode(torch.zeros_like(code) if zeroed else code)
        energies.append(1 - ((gradient - decoded).norm() / gradient.norm()).square().item())
        best.append(torch.cosine_similarity(gradient, decoded, dim=0, eps=1e-30).square().item())
    return Captured(mean(energies), mean(best))


def codecs(config: RunConfig, federation: Federation, statistics: GradientStatistics) -> Iterable[tuple[str, Codec]]:
    """Every AutoEncoder, made from the statistics alone as a run makes it."""
    layout = federation.adapted.layout
    for name, keys in CODECS.items():
        settings = prior_settings(RunConfig.parse(config.flat() | keys), layout)
        yield name, train_prior(layout, statistics, settings)[0]


def measure(config: RunConfig, clients: int, rounds: int) -> Measured:
    """Build and measure every AutoEncoder of one seed."""
    federation = Federation.of(config, clients)
    statistics = federation.statistics()
    layout = federation.adapted.layout
    unseen = SyntheticGradients(layout, statistics.mean, statistics.std, config.seed + 1_000_000)
    start, later = federation.adapted.initial, federation.after(rounds)
    synthetic, real = unseen.sample(QUALITY_SAMPLES), federation.gradients(later, rounds)
    gradients = {
        "synthetic": synthetic,
        "real, start": federation.gradients(start, rounds),
        f"real, round {rounds}": real,
        f"their average, round {rounds}": real.mean(dim=0, keepdim=True),
    }
    controls = {"codes zeroed: synthetic": synthetic, f"codes zeroed: real, round {rounds}": real}
    found = {}
    for name, codec in codecs(config, federation, statistics):
        cells = {column: captured(codec, rows) for column, rows in gradients.items()}
        zeroed = {column: captured(codec, rows, zeroed=True) for column, rows in controls.items()}
        found[name] = (codec.size, cells | zeroed)
    return Measured(found, {column: share_of_a(layout, rows) for column, rows in gradients.items()})


def share_of_a(layout: Layout, gradients: Tensor) -> float:
    """Mean share of the gradients' energy that lies in the factors A, not B."""
    pieces = [gradients[:, piece.offset : piece.end] for piece in layout.tensors if "lora_A" in piece.name]
    energy = torch.cat(pieces, dim=1).square().sum(dim=1) / gradients.square().sum(dim=1)
    return energy.mean().item()


def table(seeds: list[Measured], field: str, values: int) -> str:
    """One measure of ``Captured`` as a Markdown table: mean over the seeds ± their standard deviation."""
    first = seeds[0].codecs
    columns = list(next(iter(first.values()))[1])
    lines = [f"| codec | k/n | {' | '.join(columns)} |", "|---|---|" + "---|" * len(columns)]
    for name, (size, _) in first.items():
        cells = [_cell([getattr(seed.codecs[name][1][column], field) for seed in seeds]) for column in columns]
        lines.append(f"| {name} | {size / values:.4f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(values: list[float]) -> str:
    spread = f" ± {stdev(values):.4f}" if len(values) > 1 else ""
    return f"{mean(values):.4f}{spread}"


def stage_one_cost(config: RunConfig, statistics_size: int) -> tuple[float, float]:
    """Stage-2 noise multipliers of the demo's plan without and with a private stage 1 of ``statistics_size`` values."""
    clients = config.federation.num_clients
    stages = (None, statistics_stage(config, statistics_size))
    without, with_it = (make_plan(config, clients, config.codec.size, stage) for stage in stages)
    return without.round.noise_multiplier, with_it.round.noise_multiplier


def arguments_of(description: str | None) -> argparse.ArgumentParser:
    """What every measurement of AutoEncoders asks for."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--size", type=int, default=256, help="values of a linear code")
    parser.add_argument("--rounds", type=int, default=10, help="rounds of plain LoRA before the last measurement")
    parser.add_argument("--seeds", type=int, default=3)
    return parser


def print_tables(found: list[Measured], values: int) -> None:
    """Both measures of ``Captured``; ``values`` are those of the adapter."""
    for title, field in (("as decoded", "energy"), ("best multiple of what is decoded", "best_scale")):
        print(f"\nCaptured energy, {title}:\n\n{table(found, field, values)}")


def main() -> None:
    """Measure every seed and print both tables and what stage 1 costs."""
    arguments = arguments_of(__doc__).parse_args()
    torch.set_num_threads(1)
    preset = read_preset("demo") | {"codec.size": arguments.size}
    configs = [RunConfig.parse(preset | {"seed": seed}) for seed in range(1, arguments.seeds + 1)]
    found = [measure(config, arguments.clients, arguments.rounds) for config in configs]
    layout = load_adapted_model(configs[0].model, configs[0].lora, configs[0].seed).layout
    print_tables(found, layout.size)
    for column in found[0].share_of_a:
        print(f"\nEnergy in A, {column}: {_cell([seed.share_of_a[column] for seed in found])}", end="")
    without, with_it = stage_one_cost(configs[0], ScaleCode.of(layout, configs[0].statistics).size)
    print(f"\n\nStage-2 noise multiplier: {without:.4f} without stage 1, {with_it:.4f} with it")
    print(f"Stage 1 raises the noise by {with_it / without - 1:.2%}")


if __name__ == "__main__":
    main_with_plain_errors(main)
