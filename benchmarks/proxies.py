"""What FEDLPP's clients hold, against what the server keeps: ``python -m benchmarks.proxies --help``.

Each run's broadcasts are kept as a client gets them. Held-out accuracy is then measured of the server's adapter, of the
last proxies one by one and of their mean; with ``--own-steps`` also of what one client gets by training on its own
examples from the untouched adapter, from the last proxy and from the means. In cross-device runs no client sees every
round: the means are those of clients that pool what they got.
"""

import argparse
import contextlib
import io
import tempfile
from collections.abc import Iterable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from flwr.app import Message
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.experiment import parse_value, points
from client_app.app import app
from client_app.local_update import local_update
from common.config import RunConfig, Scalar
from common.data import evaluation_examples, private_tokens
from common.models import load_adapted_model
from common.wire import received_adapter, unpack_instruction
from server_app.evaluation import Evaluator
from server_app.in_process import InProcessGrid
from server_app.launcher import read_preset
from server_app.run import run_federation

WINDOWS = (5, 10)  # rounds over which a client averages
LAST = 5  # rounds whose proxies are scored one by one


class Eavesdropper(InProcessGrid):
    """Keeps the content of one instruction of every round."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__(app, config.flat(), config.federation.num_clients)
        self.contents: dict[str, Any] = {}

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """As on any grid, after a look at the messages."""
        asked = list(messages)
        self.contents |= {message.metadata.group_id: message.content for message in asked[:1]}
        return super().push_messages(asked)


def broadcasts(config: RunConfig) -> tuple[Tensor, list[Tensor]]:
    """The server's last adapter (shape ``[n]``) of a run, and what its clients trained in each round."""
    grid = Eavesdropper(config)
    layout = load_adapted_model(config.model, config.lora, config.seed).layout
    with contextlib.redirect_stdout(io.StringIO()):
        folder = run_federation(grid, config)
    latest: Path = folder.checkpoint / (folder.checkpoint / "latest").read_text()
    sent = [received_adapter(unpack_instruction(content)[0], layout) for content in grid.contents.values()]
    return load_file(latest / "tensors.safetensors")["adapter"], sent


def candidates(config: RunConfig, proxies: list[Tensor], steps: int) -> dict[str, Tensor]:
    """What clients can make of their proxies, by name (the best single proxy is found by scoring)."""
    held = {f"mean of last {window}": torch.stack(proxies[-window:]).mean(0) for window in WINDOWS}
    if steps:
        starts = {"base": load_adapted_model(config.model, config.lora, config.seed).initial}
        starts |= {"last proxy": proxies[-1], **held}
        held |= {f"own training from {name}": train_alone(config, start, steps) for name, start in starts.items()}
    return held


def train_alone(config: RunConfig, start: Tensor, steps: int) -> Tensor:
    """One client's own training: normalised gradient steps of the server's step size on its own examples."""
    adapted = load_adapted_model(config.model, config.lora, config.seed)
    examples = private_tokens(config.data, adapted.tokenizer, 0, config.federation.num_clients, config.seed, "")
    adapter = start.clone()
    for step in range(steps):
        gradient = local_update(adapted, adapter, examples, config.train, step)
        adapter -= config.server.learning_rate * gradient / gradient.norm().clamp_min(1e-12)
    return adapter


def scores(config: RunConfig, steps: int) -> dict[str, float]:
    """Held-out accuracies of one run, by name."""
    server, proxies = broadcasts(config)
    adapted = load_adapted_model(config.model, config.lora, config.seed)
    examples = evaluation_examples(config.data, config.seed)
    if examples is None:
        raise SystemExit("data.evaluation: choices are needed to score")
    evaluator = Evaluator(adapted, examples, config.data, config.evaluation)

    def accuracy(adapter: Tensor) -> float:
        found = evaluator(adapter).accuracy
        return float("nan") if found is None else found

    single = [accuracy(proxy) for proxy in proxies[-LAST:]]
    return {
        "server": accuracy(server),
        "last proxy": single[-1],
        f"last {LAST} proxies, mean": mean(single),
        f"best of last {LAST}": max(single),
        f"lowest of last {LAST}": min(single),
        "server, loss": evaluator(server).loss,
        "last proxy, loss": evaluator(proxies[-1]).loss,
        **{name: accuracy(adapter) for name, adapter in candidates(config, proxies, steps).items()},
    }


def main() -> None:
    """Run the grid; one block of lines a point: mean, standard deviation and each seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="fedlpp-cross-silo")
    parser.add_argument("--set", action="append", default=[], metavar="key=value")
    parser.add_argument("--grid", action="append", default=[], metavar="key=v1,v2")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--own-steps", type=int, default=0, help="steps of one client's own training; 0 = leave out")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    fixed: dict[str, Scalar] = {
        key: parse_value(text) for key, _, text in (entry.partition("=") for entry in arguments.set)
    }
    base = read_preset(arguments.preset) | fixed
    for point in points(arguments.grid):
        print(f"\n{', '.join(f'{key}={value}' for key, value in point.items()) or 'as preset'}", flush=True)
        found: list[dict[str, float]] = []
        for number in range(1, arguments.seeds + 1):
            with tempfile.TemporaryDirectory() as scratch:
                run = {"seed": number, "output.dir": scratch, "output.name": "run", "evaluation.every": 10_000}
                found.append(scores(RunConfig.parse(base | point | run), arguments.own_steps))
                print(number, {key: round(value, 3) for key, value in found[-1].items()}, flush=True)
        for name in found[0]:
            values = [each[name] for each in found]
            spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
            print(f"| {name} | {mean(values):.3f}{spread} | {', '.join(f'{v:.3f}' for v in values)} |", flush=True)


if __name__ == "__main__":
    main()
