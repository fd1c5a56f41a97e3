"""How far clients' unit updates agree at the untouched model: ``python -m benchmarks.agreement --help``.

AN EXPERIMENT ONLY: it reads the clients' updates in the clear, without noise, which no run does. Every client's update
is scaled to the clip norm before noise, so the length of their mean (1: all alike) is the signal that a round has.
"""

import argparse

import torch
from torch import Tensor

from benchmarks.reconstruction import Federation
from client_app.local_update import local_update
from common.config import RunConfig
from compare.wish import TUNING_SEED
from server_app.command_line import main_with_plain_errors
from server_app.launcher import read_preset

LOCAL_STEPS = (1, 5, 10)


def mean_length(updates: Tensor) -> float:
    """Length of the mean of updates (shape ``[m, n]``, none of them zero) that were scaled to length 1."""
    return float((updates / updates.norm(dim=1, keepdim=True)).mean(dim=0).norm())


def agreement(federation: Federation, steps: int, rate: float, batch: int) -> float:
    """``mean_length`` of the clients' updates of ``steps`` local steps of length ``rate`` on batches of ``batch``."""
    changes = {"local_steps": steps, "learning_rate": rate, "batch_size": batch}
    train = federation.config.train.model_copy(update=changes)
    adapted = federation.adapted
    return mean_length(
        torch.stack([local_update(adapted, adapted.initial, own, train, i) for i, own in enumerate(federation.tokens)])
    )


def main() -> None:
    """Print a row for every batch size and number of local steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rate", type=float, default=0.1, help="local step")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    preset = read_preset("demo")
    configs = [RunConfig.parse(preset | {"seed": TUNING_SEED + i}) for i in range(1, arguments.seeds + 1)]
    federations = [Federation.of(config, arguments.clients) for config in configs]
    print("| examples in a step | local steps | length of the mean (each seed) |\n|---|---|---|")
    for batch in (6, 12):
        for steps in LOCAL_STEPS:
            found = [agreement(federation, steps, arguments.rate, batch) for federation in federations]
            print(f"| {batch} | {steps} | {' '.join(f'{value:.3f}' for value in found)} |", flush=True)


if __name__ == "__main__":
    main_with_plain_errors(main)
