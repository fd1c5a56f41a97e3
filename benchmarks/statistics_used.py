"""AutoEncoder quality by the statistics that it is made from: ``python -m benchmarks.statistics_used --help``.

AN EXPERIMENT ONLY: it reads the clients' gradients in the clear, without noise, which no run does. From the gradients
of stage 1 it takes ever finer statistics, draws independent synthetic gradients from each set of them, and makes two
linear AutoEncoders: trained as Algorithm 1 says, and the optimum of that objective. Both are then measured on new
synthetic gradients and on clients' gradients at the start (B = 0) and after a few rounds of plain LoRA. The control
decodes a code of zeros: what that captures are the means that the decoder has as its bias.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.reconstruction import (
    Captured,
    Federation,
    Measured,
    arguments_of,
    captured,
    print_tables,
    share_of_a,
)
from common.adapter import Layout
from common.codecs import Codec
from common.codecs.autoencoder import NeuralCodec
from common.codecs.dense import DENSE
from common.config import RunConfig
from server_app.command_line import main_with_plain_errors
from server_app.launcher import read_preset
from server_app.prior import QUALITY_SAMPLES, train_autoencoder
from server_app.prior_settings import prior_settings

KINDS = ("trained", "optimum")
LEAST_FREEDOM = 4.0  # degrees of freedom at which Student's t has an infinite kurtosis


@dataclass(frozen=True)
class Statistics:
    """Mean, deviation and kurtosis of every value, each of shape ``[n]``, as coarse as what they come from.

    Values are drawn independently: normal ones where the kurtosis is 3, else Student's t with that kurtosis.
    """

    mean: Tensor
    std: Tensor
    kurtosis: Tensor | None = None


class Drawn:
    """Synthetic gradients with given statistics, drawn with ``seed`` (a ``server_app.prior.Gradients``)."""

    device = torch.device("cpu")

    def __init__(self, statistics: Statistics, seed: int) -> None:
        self._statistics = statistics
        self._generator = np.random.Generator(np.random.SFC64(seed))
        self._freedom: np.ndarray | None = None
        if statistics.kurtosis is not None:
            excess = (statistics.kurtosis - 3).clamp_min(1e-3).double()  # a t cannot have lighter tails than a normal
            self._freedom = (LEAST_FREEDOM + 6 / excess).numpy()

    def sample(self, count: int) -> Tensor:
        """Draw ``count`` new gradients, shape ``[count, n]``."""
        shape = (count, len(self._statistics.mean))
        if self._freedom is None:
            drawn = self._generator.standard_normal(shape, dtype=np.float32)
        else:
            unit = np.sqrt((self._freedom - 2) / self._freedom)  # a t's variance is f / (f - 2)
            drawn = (self._generator.standard_t(self._freedom, shape) * unit).astype(np.float32)
        return torch.from_numpy(drawn) * self._statistics.std + self._statistics.mean

    @property
    def rms(self) -> float:
        """Root of the expected mean square of a value."""
        return (self._statistics.mean.square() + self._statistics.std.square()).mean().sqrt().item()

    @property
    def bound(self) -> float:
        """Largest |m| + 4s."""
        return (self._statistics.mean.abs() + 4 * self._statistics.std).max().item()


def collected(federation: Federation) -> Tensor:
    """Every gradient that stage 1 sees, in the clear: shape ``[clients · steps, n]``."""
    return torch.stack([gradient for stream in federation.streams() for gradient in stream])


def statistics_of(gradients: Tensor, layout: Layout) -> Iterator[tuple[str, Statistics]]:
    """The sets of statistics of gradients (shape ``[m, n]``), from the coarsest to the finest, by name."""
    mean, std, kurtosis = (layout.expand(values) for values in _per_tensor(gradients, layout))
    none = torch.zeros(layout.size)
    yield "mean", Statistics(mean, none)
    yield "std", Statistics(none, std)
    yield "mean, std", Statistics(mean, std)
    yield "mean, std, kurtosis", Statistics(mean, std, kurtosis)
    yield "mean, std by row and column", _by_row_and_column(gradients, layout)
    yield "mean, std of every value", Statistics(gradients.mean(dim=0), gradients.std(dim=0, correction=0))


def _per_tensor(gradients: Tensor, layout: Layout) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, deviation and kurtosis of every tensor's values, each of shape ``[n_t]``."""
    found = []
    for piece in layout.tensors:
        values = gradients[:, piece.offset : piece.end].double()
        centred = values - values.mean()
        variance = centred.square().mean()
        found.append((values.mean(), variance.sqrt(), centred.pow(4).mean() / variance.square()))
    mean, std, kurtosis = (torch.stack(values).float() for values in zip(*found, strict=True))
    return mean, std, kurtosis


def _by_row_and_column(gradients: Tensor, layout: Layout) -> Statistics:
    """Means as row + column - tensor, variances as row · column / tensor: all that the two margins say."""
    means, stds = [], []
    for piece in layout.tensors:
        values = gradients[:, piece.offset : piece.end].view(-1, *piece.shape)
        mean, square = values.mean(dim=0), values.square().mean(dim=0)
        margins = mean.mean(1, keepdim=True) + mean.mean(0, keepdim=True) - mean.mean()
        rows = square.mean(1, keepdim=True) - mean.mean(1, keepdim=True).square()
        columns = square.mean(0, keepdim=True) - mean.mean(0, keepdim=True).square()
        means.append(margins.flatten())
        stds.append((rows * columns / rows.mean()).sqrt().flatten())
    return Statistics(torch.cat(means), torch.cat(stds))


def optimum(layout: Layout, statistics: Statistics, size: int, seed: int) -> NeuralCodec:
    """The AutoEncoder that minimises the objective: the means as bias, and the ``size`` values of largest deviation.

    Of equals a random choice; values without deviation get no place in the code. Kurtosis does not enter: the mean
    squared error of a linear AutoEncoder depends on the first two moments only.
    """
    order = torch.randperm(layout.size, generator=torch.Generator().manual_seed(seed))
    kept = order[statistics.std[order].argsort(descending=True, stable=True)][:size]
    encoder, decoder = nn.Linear(layout.size, size), nn.Linear(size, layout.size)
    with torch.no_grad():
        encoder.weight.zero_()[torch.arange(size), kept] = (statistics.std[kept] > 0).float()
        decoder.weight.copy_(encoder.weight.T)
        encoder.bias.copy_(-encoder.weight @ statistics.mean)
        decoder.bias.copy_(statistics.mean)
    return NeuralCodec(layout, DENSE, option=size, scale=1.0, encoder=encoder, decoder=decoder)


def codecs(
    config: RunConfig, layout: Layout, gradients: Tensor, kinds: Collection[str]
) -> Iterator[tuple[str, Statistics, Codec]]:
    """The AutoEncoders of every set of statistics."""
    settings = prior_settings(config, layout)
    for name, statistics in statistics_of(gradients, layout):
        if "trained" in kinds:
            source = Drawn(statistics, config.seed)
            trained, _ = train_autoencoder(DENSE, settings.size, layout, settings, source, scale=source.rms)
            yield f"{name}: trained", statistics, trained
        if "optimum" in kinds:
            yield f"{name}: optimum", statistics, optimum(layout, statistics, settings.size, config.seed)


def measure(config: RunConfig, clients: int, rounds: int, kinds: Collection[str] = KINDS) -> Measured:
    """Make and measure the AutoEncoders of one seed."""
    federation = Federation.of(config, clients)
    layout = federation.adapted.layout
    start = federation.gradients(federation.adapted.initial, rounds)
    later = federation.gradients(federation.after(rounds), rounds)
    found: dict[str, tuple[int, dict[str, Captured]]] = {}
    for name, statistics, codec in codecs(config, layout, collected(federation), kinds):
        synthetic = Drawn(statistics, config.seed + 1_000_000).sample(QUALITY_SAMPLES)
        cells = {
            "synthetic": captured(codec, synthetic),
            "real, start": captured(codec, start),
            f"real, round {rounds}": captured(codec, later),
            "zeroed: real, start": captured(codec, start, zeroed=True),
            f"zeroed: real, round {rounds}": captured(codec, later, zeroed=True),
        }
        found[name] = (codec.size, cells)
        print(f"# seed {config.seed}, {name}", flush=True)
    return Measured(found, {"real, start": share_of_a(layout, start)})


def main() -> None:
    """Measure every seed and print the tables, and the statistics that say how far from normal gradients are."""
    parser = arguments_of(__doc__)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="training takes most of the time")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    preset = read_preset("demo") | {"codec.size": arguments.size, "codec.form": "trained"}
    configs = [RunConfig.parse(preset | {"seed": seed}) for seed in range(1, arguments.seeds + 1)]
    first = Federation.of(configs[0], arguments.clients)
    mean, std, kurtosis = _per_tensor(collected(first), first.adapted.layout)
    ratio, tails = (mean.abs() / std).median().item(), kurtosis.median().item()
    print(f"Seed 1, stage 1, median over the tensors: |mean| / std {ratio:.4f}, kurtosis {tails:.1f}", flush=True)
    found = [measure(config, arguments.clients, arguments.rounds, arguments.kinds) for config in configs]
    print_tables(found, first.adapted.layout.size)


if __name__ == "__main__":
    main_with_plain_errors(main)
