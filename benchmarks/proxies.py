"""What FEDLPP's clients hold, against what the server keeps: ``python -m benchmarks.proxies --help``.

Each run's broadcasts are kept as a client gets them. Held-out accuracy is then measured of the server's adapter, of the
last proxies one by one and of their mean; with ``--own-steps`` also of what one client gets by training on its own
examples from the untouched adapter, from the last proxy and from the means. In cross-device runs no client sees every
round: the means are those of clients that pool what they got. ``--steps`` tunes the server's step of every point as
``dr-encoder compare`` does, on the task's public validation examples, by the server's adapter, with seeds that no
measured run has.
"""

import argparse
import contextlib
import io
import json
import math
import tempfile
from collections.abc import Iterable
from statistics import mean, stdev
from typing import Any, NamedTuple

import torch
from flwr.app import Message
from torch import Tensor

from benchmarks.experiment import points
from client_app.app import app
from client_app.local_update import local_update
from common.config import RunConfig, Scalar
from common.data import evaluation_examples, private_tokens
from common.models import load_adapted_model
from common.wire import received_adapter, unpack_instruction
from compare.runs import run_report
from compare.study import mean_score
from compare.tuning import Score, best_of
from compare.wish import TUNING, TUNING_SEED
from server_app.command_line import main_with_plain_errors
from server_app.evaluation import Evaluator
from server_app.in_process import InProcessGrid
from server_app.launcher import read_preset
from server_app.overrides import parse_overrides
from server_app.run import run_federation

WINDOWS = (5, 10)  # rounds over which a client averages


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


class Kept(NamedTuple):
    """What a run left: the proxies that clients trained (shape ``[n]`` each), its report."""

    proxies: list[Tensor]
    report: dict[str, Any]


def broadcasts(config: RunConfig) -> Kept:
    """Run, and keep what the clients got in each round."""
    grid = Eavesdropper(config)
    layout = load_adapted_model(config.model, config.lora, config.seed).layout
    with contextlib.redirect_stdout(io.StringIO()):
        folder = run_federation(grid, config)
    sent = [received_adapter(unpack_instruction(content)[0], layout) for content in grid.contents.values()]
    report = json.loads((folder.path / "report.json").read_text())
    return Kept(sent, report)


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


def scores(config: RunConfig, steps: int, last: int) -> dict[str, float]:
    """Held-out accuracies of one run, by name; ``proxy`` is of the server's last adapter, which no client got yet.

    The last proxies that clients got are scored one by one, ``last`` of them.
    """
    proxies, report = broadcasts(config)
    adapted = load_adapted_model(config.model, config.lora, config.seed)
    examples = evaluation_examples(config.data, config.seed)
    if examples is None:
        raise SystemExit("data.evaluation: choices are needed to score")
    evaluator = Evaluator(adapted, examples, config.data, config.evaluation)

    def accuracy(adapter: Tensor) -> float:
        found = evaluator(adapter).accuracy
        return float("nan") if found is None else found

    single = [accuracy(proxy) for proxy in proxies[-last:]]
    known, loss = (report["outcome"]["final"][key] for key in ("accuracy", "loss"))
    proxy = report["strategy"].get("proxy", {"accuracy": known, "loss": loss})
    return {
        "server": known,
        "proxy": proxy["accuracy"],
        "gap": known - proxy["accuracy"],
        "server, loss": loss,
        "proxy, loss": proxy["loss"],
        "gap, loss": proxy["loss"] - loss,
        "last proxy": single[-1],
        f"last {last} proxies, mean": mean(single),
        f"best of last {last}": max(single),
        f"lowest of last {last}": min(single),
        **{name: accuracy(adapter) for name, adapter in candidates(config, proxies, steps).items()},
    }


def run(keys: dict[str, Scalar], seed: int, steps: int, last: int) -> dict[str, float]:
    """One run with these keys, whose folder is thrown away."""
    with tempfile.TemporaryDirectory() as scratch:
        place: dict[str, Scalar] = {"output.dir": scratch, "output.name": "run", "evaluation.every": 10_000}
        return scores(RunConfig.parse({**keys, **place, "seed": seed}), steps, last)


def best_step(keys: dict[str, Scalar], steps: list[float], seeds: int) -> float:
    """The step whose server's adapter has the highest accuracy on validation facts, of equals the least loss."""
    found: dict[float, Score] = {}
    stand_in = TUNING[RunConfig.parse(keys).data.task]
    for step in steps:
        trial = {**keys, **stand_in, "server.learning-rate": step, "evaluation.every": 10_000}
        with contextlib.redirect_stdout(io.StringIO()):
            reports = [run_report({**trial, "seed": TUNING_SEED + number}) for number in range(1, seeds + 1)]
        found[step] = mean_score(reports)
    trials = ", ".join(f"{step:g}: {score.accuracy:.3f} ({-score.minus_loss:.3f})" for step, score in found.items())
    print(f"validation accuracy (loss) by step: {trials}", flush=True)
    return best_of(found)


def report(found: list[dict[str, float]]) -> None:
    """One line a figure: mean ± standard error, and each seed."""
    for name in found[0]:
        values = [each[name] for each in found]
        spread = f" ± {stdev(values) / math.sqrt(len(values)):.3f}" if len(values) > 1 else ""
        print(f"| {name} | {mean(values):.3f}{spread} | {', '.join(f'{value:.3f}' for value in values)} |", flush=True)


def main() -> None:
    """Run the grid; one block of lines a point: mean ± standard error and each seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="fedlpp-cross-silo")
    parser.add_argument("--set", action="append", default=[], metavar="key=value")
    parser.add_argument("--grid", action="append", default=[], metavar="key=v1,v2")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--own-steps", type=int, default=0, help="steps of one client's own training; 0 = leave out")
    parser.add_argument("--last", type=int, default=5, help="how many of the last proxies are scored one by one")
    parser.add_argument("--steps", default="", metavar="s1,s2", help="server.learning-rate is tuned among these")
    parser.add_argument("--tuning-seeds", type=int, default=2, help="runs of each step that is tried")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    fixed = parse_overrides(arguments.set)
    steps = [float(text) for text in arguments.steps.split(",") if text]
    for point in points(arguments.grid):
        print(f"\n{', '.join(f'{key}={value}' for key, value in point.items()) or 'as preset'}", flush=True)
        keys = {**read_preset(arguments.preset), **fixed, **point}
        if steps:
            keys["server.learning-rate"] = best_step(keys, steps, arguments.tuning_seeds)
            print(f"chosen step: {keys['server.learning-rate']}")
        seeds = range(1, arguments.seeds + 1)
        report([run(keys, number, arguments.own_steps, arguments.last) for number in seeds])


if __name__ == "__main__":
    main_with_plain_errors(main)
