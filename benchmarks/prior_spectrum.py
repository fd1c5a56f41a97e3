"""What a public prior's rows hold of clients' gradients, and of what these agree on.

AN EXPERIMENT ONLY (``python -m benchmarks.prior_spectrum``): it reads the clients' gradients in the clear, without
noise, which no run does. At the untouched model (B = 0) it makes the prior's rows and sums up, for bands of rows from
the strongest down: the energy of a pseudo-gradient (which the server knows) and of a client's unit gradient, and that
of the mean of the clients' unit gradients, which is the signal of a round. The last is the product of two halves of
the clients, so that it holds nothing of one client. Beside them: which share of a run's noise a band carries under
different weights of the rows.
"""

import argparse
from itertools import pairwise

import torch
from torch import Tensor

from benchmarks.reconstruction import Federation
from common.codecs.rows import Rows
from common.config import RunConfig
from common.demo.prompts import public_questions
from common.demo.tasks import template_of
from common.group_gradients import group_gradients
from server_app.command_line import main_with_plain_errors
from server_app.launcher import read_preset
from server_app.public_gradients import Directions, directions, pseudo_clients
from server_app.public_prompts import public_prompts
from server_app.strategies.public_prior import row_scales

BANDS = (0, 4, 16, 64, 256)
WEIGHTS: dict[str, tuple[float, float]] = {"none": (0.0, 0.0), "w = 1/4": (0.25, 0.0), "w = 1/4, floor": (0.25, 1.0)}
"""Whitening, and multiples of the floor that is given."""


def prior(federation: Federation, config: RunConfig) -> Directions:
    """Rows made as a run makes its first ones, from a draw of its own, prompts that are scored later not left out."""
    adapted, settings = federation.adapted, config.public_prior
    task, seed = config.data.task, config.seed
    longest = config.data.max_length
    prompts = public_prompts(adapted, settings, template_of(task), public_questions(task), (), seed, longest)
    clients = pseudo_clients(adapted, adapted.initial, prompts, settings, seed)
    gradients = group_gradients(adapted, adapted.initial, clients.tokens, clients.spans)
    return directions(adapted.layout, gradients, BANDS[-1], settings, clients, adapted.initial)


def units(federation: Federation) -> Tensor:
    """Every client's gradient of the first round at unit length, shape ``[clients, n]``."""
    gradients = federation.gradients(federation.adapted.initial, 0)
    return torch.nn.functional.normalize(gradients, dim=1)


def agreement(vectors: Tensor) -> Tensor:
    """Square of every entry of the mean of vectors (shape ``[m, n]``), without what single vectors add to it."""
    return vectors[::2].mean(dim=0) * vectors[1::2].mean(dim=0)


def shares(rows: Rows, gradients: Tensor) -> tuple[Tensor, Tensor]:
    """Along every row the mean energy of unit gradients and its share of what they agree on, shape ``[k]`` each."""
    codes = torch.stack([rows.project(gradient) for gradient in gradients])
    return codes.square().mean(dim=0), agreement(codes) / agreement(gradients).sum()


def bands(values: Tensor) -> list[float]:
    """Sums over the bands of rows, then what is left of 1."""
    sums = [float(values[a:b].sum()) for a, b in pairwise(BANDS)]
    return [*sums, 1 - sum(sums)]


def table(config: RunConfig, clients: int, floor: float) -> str:
    """Markdown: a line for each quantity, a column for each band."""
    federation = Federation.of(config, clients)
    found = prior(federation, config)
    gradients = units(federation)
    energy, agreed = shares(found.rows, gradients)
    lines = {"a pseudo-gradient's energy": bands(found.energies), "a client gradient's energy": bands(energy)}
    lines["of the energy of the clients' mean"] = bands(agreed)
    for name, (whitening, multiple) in WEIGHTS.items():
        scales = row_scales(
            found.energies, 0, federation.adapted.layout.size, whitening=whitening, floor=floor * multiple
        )
        lines[f"of the noise, weights: {name}"] = bands(scales.square() / scales.square().sum())
    length = agreement(gradients).sum().clamp(min=0).sqrt()
    names = [f"rows {a + 1}-{b}" for a, b in pairwise(BANDS)]
    head = [f"{config.data.task}: the mean of the clients' unit gradients has length {length:.3f}", ""]
    head += [f"| | {' | '.join(names)} | outside |", "|---|" + "---|" * len(BANDS)]
    return "\n".join(head + [f"| {name} | {' | '.join(f'{x:.3f}' for x in row)} |" for name, row in lines.items()])


def main() -> None:
    """Print a table for each task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=400)
    parser.add_argument("--prompts", default="self-generated")
    parser.add_argument(
        "--floor", type=float, default=0.0149, help="energy; .0149: the default at M = K = 20, epsilon 2"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for task in ("elicitation", "knowledge"):
        keys = {"strategy.name": "public-prior", "data.task": task, "public-prior.prompts": arguments.prompts}
        config = RunConfig.parse({**read_preset("demo"), **keys})
        print(table(config, arguments.clients, arguments.floor) + "\n")


if __name__ == "__main__":
    main_with_plain_errors(main)
