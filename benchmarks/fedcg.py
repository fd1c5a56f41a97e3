"""FedCG beside plain LoRA and DR-Encoder, and what its decoder does by itself: ``python -m benchmarks.fedcg --help``.

20 clients of the demo, all in every round. The server's step of each row is tuned on the public validation split with
seed 1, the same number of trials for every row; the accuracy is of the evaluation split. The shipped strategies and
handlers run in this process and messages are not serialised; FedCG's stage 1 in the clear depends on the seed only, a
private one on epsilon too, so each runs once. Controls: ``codes zeroed`` (the decoder gets zeros in place of the mean
code) with FedCG's own step, and ``no update`` (the base model).
"""

import argparse
import json
import math
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from datasets import Dataset
from flwr.app import Error, Message, MetricRecord
from torch import Tensor

from client_app.app import app
from common.codecs.base import Codec
from common.config import RunConfig, Scalar
from common.data import evaluation_examples, retention_examples
from common.models import load_adapted_model
from common.privacy.ledger import Ledger
from common.privacy.sampling import key_from_seed
from server_app.evaluation import Evaluator
from server_app.in_process import InProcessGrid
from server_app.launcher import read_preset
from server_app.optimizer import ServerOptimizer
from server_app.run import open_account, plan_run
from server_app.strategies import STRATEGIES
from server_app.strategies.base import FederatedAdapter, Hooks, RunState, pack_adapter

COMMON: dict[str, Scalar] = {
    "num-server-rounds": 10,
    "evaluation.every": 1000,
    "federation.num-clients": 20,
    "privacy.sampling-rate": 1.0,
    "privacy.delta": 0.0,
    "privacy.trust": "central",
    "statistics.sampling-rate": 1.0,
    "fedcg.sampling-rate": 1.0,
}
LINEAR: dict[str, Scalar] = {"strategy.name": "fedcg", "codec.kind": "linear", "codec.size": 64}
CONV: dict[str, Scalar] = {"strategy.name": "fedcg", "codec.kind": "conv", "codec.size": 0}
ROWS: dict[str, tuple[dict[str, Scalar], tuple[float, ...]]] = {
    "lora": ({"strategy.name": "lora"}, (0.1, 0.3, 1.0)),
    "dr-encoder": ({"strategy.name": "dr-encoder"}, (1.0, 3.0, 10.0)),
    "fedcg linear": (LINEAR, (0.1, 0.3, 1.0)),
    "fedcg linear private": ({**LINEAR, "fedcg.private": True}, (0.1, 0.3, 1.0)),
    "fedcg conv": (CONV, (0.1, 0.3, 1.0)),
}
"""Keys of each row and the steps that are tried without noise; a third of them with noise."""


class Direct(InProcessGrid):
    """An in-process grid that hands messages over as they are."""

    def answer(self, message: Message) -> Message | None:
        """The client's reply to the very object that the server made."""
        metadata: Any = message.metadata
        metadata.__dict__["_message_id"] = f"message-{next(self._counter)}"
        try:
            return self._app(message=message, context=self._contexts[metadata.dst_node_id])
        except Exception as error:
            return Message(Error(0, f"{type(error).__name__}: {error}"), reply_to=message)


Scorer = Callable[[Tensor], dict[str, float]]
_codecs: dict[tuple[str, int, float], Codec] = {}


def run(keys: dict[str, Scalar]) -> dict[str, float]:
    """Run once; accuracy, loss and retention of the final adapter, and whether it diverged."""
    config = RunConfig.parse(read_preset("demo") | COMMON | keys)
    adapted = load_adapted_model(config.model, config.lora, config.seed)
    clients = config.federation.num_clients
    evaluator = _evaluator(config.data.split, config.seed)
    with tempfile.TemporaryDirectory() as scratch:
        account = open_account(config, adapted, plan_run(config, adapted, clients), Ledger(Path(scratch) / "ledger"))
        state = RunState(ServerOptimizer(config.server, adapted.initial.clone()), key_from_seed(config.seed))
        state.base_loss = math.inf
        hooks = Hooks(lambda *_: MetricRecord(), lambda _: None, lambda *_: None)
        nodes = list(range(1, clients + 1))
        strategy = STRATEGIES[config.strategy.name](config, adapted, nodes, account, state, hooks)
        grid = Direct(app, config.flat(), clients)
        if config.strategy.name == "fedcg":
            state.codec = _fedcg_codec(strategy, grid)
        strategy.start(grid, pack_adapter(state.optimizer.adapter), config.num_server_rounds)
    adapter = strategy.state.optimizer.adapter
    if config.data.split == "validation":
        return evaluator(adapter)
    kept = _retention(config.seed)(adapter)["accuracy"]
    return {**evaluator(adapter), "retention": kept, "base": _base(config.seed)}


def _fedcg_codec(strategy: FederatedAdapter, grid: Direct) -> Codec:
    config = strategy.config
    key = (config.codec.kind, config.seed, config.privacy.epsilon if config.fedcg.private else math.inf)
    if key not in _codecs:
        _codecs[key] = strategy.prepare(grid)
        print(f"# codec {key}: {json.dumps({k: round(v, 4) for k, v in strategy.state.prior.items()})}", flush=True)
    return _codecs[key]


@cache
def _evaluator(split: str, seed: int) -> Scorer:
    config = RunConfig.parse(read_preset("demo") | COMMON | {"data.split": split, "seed": seed})
    return _scorer(config, evaluation_examples(config.data, config.seed))


@cache
def _base(seed: int) -> float:
    config = RunConfig.parse(read_preset("demo") | {"seed": seed})
    accuracy: float = _evaluator("evaluation", seed)(load_adapted_model(config.model, config.lora, seed).initial)[
        "accuracy"
    ]
    return accuracy


@cache
def _retention(seed: int) -> Scorer:
    config = RunConfig.parse(read_preset("demo") | COMMON | {"seed": seed})
    return _scorer(config, retention_examples(config.data, config.seed))


def _scorer(config: RunConfig, rows: Dataset | None) -> Scorer:
    if rows is None:
        raise ValueError(f'data.name = "{config.data.name}" has nothing to score')
    evaluate = Evaluator(
        load_adapted_model(config.model, config.lora, config.seed), rows, config.data, config.evaluation
    )

    def score(adapter: Tensor) -> dict[str, float]:
        found = evaluate(adapter)
        return {"accuracy": found.accuracy or 0.0, "loss": found.loss}

    return score


def main() -> None:
    """Tune, then measure every row at every epsilon, and print each as it is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--epsilons", default="inf,8,4,2")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], metavar="key=number")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    extra: dict[str, Scalar] = {k: json.loads(v) for k, _, v in (entry.partition("=") for entry in arguments.set)}
    for name in arguments.rows.split(","):
        keys, clear_steps = ROWS[name]
        for epsilon in map(float, arguments.epsilons.split(",")):
            steps = [step if math.isinf(epsilon) else step / 3 for step in clear_steps]
            fixed = {**keys, **extra, "privacy.epsilon": epsilon}
            tried = {step: run({**fixed, "server.learning-rate": step, "data.split": "validation"}) for step in steps}
            best = max(tried, key=lambda step: tried[step]["accuracy"])
            trials = ", ".join(f"{step:g}: {found['accuracy']:.3f}" for step, found in tried.items())
            fixed["server.learning-rate"] = best
            controls = ("none", "codes-zeroed") if keys["strategy.name"] == "fedcg" else ("none",)
            for control in controls:
                fixed["server.control"] = control
                found = [run({**fixed, "seed": seed}) for seed in range(1, arguments.seeds + 1)]
                title = name if control == "none" else f"{name}, {control}"
                print(
                    f"| {title} | {epsilon:g} | {trials} | {best:g} | {cells(found)} |",
                    flush=True,
                )


def cells(found: list[dict[str, float]]) -> str:
    """Accuracy of each seed, their spread, loss and retention."""
    scores = [one["accuracy"] for one in found]
    spread = f"{stdev(scores):.3f}" if len(scores) > 1 else "-"
    each = ", ".join(f"{score:.3f}" for score in scores)
    loss, kept, base = (mean(one[key] for one in found) for key in ("loss", "retention", "base"))
    return f"{base:.3f} | {mean(scores):.3f} ({each}) | {spread} | {loss:.3f} | {kept:.3f}"


if __name__ == "__main__":
    main()
