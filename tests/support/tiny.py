"""A federation small enough for tests: six clients of eight examples each, 3,072 adapter values, no noise."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from flwr.app import MetricRecord
from safetensors.torch import load_file
from torch import Tensor

from client_app.app import app as client_app
from client_app.site_ledger import SiteLedger, create_ledger, read_ledger
from common.adapter import Layout
from common.config import RunConfig
from common.demo.tasks import evaluation_examples, training_examples
from common.model.adapted import AdaptedModel
from server_app.privacy.ledger import Ledger
from server_app.privacy.plan import PrivacyPlan
from server_app.results.folder import RunFolder
from server_app.rounds.availability import Attendance
from server_app.rounds.controls import Control
from server_app.rounds.state import Hooks, RunState, optimizer_of, pack_adapter
from server_app.run import plan_run, run_federation
from server_app.session import open_account
from server_app.strategies import check_strategy, recipe_of, strategy_of
from server_app.strategies.base import FederatedAdapter
from tests.support.grids import TinyGrid
from workbench.simulation.in_process import InProcessGrid

G = TypeVar("G", bound=InProcessGrid)

CLIENTS = 6
TINY: dict[str, Any] = {
    "num-server-rounds": 3,
    "federation.num-clients": CLIENTS,
    "federation.connect-timeout": 0.1,
    "federation.wait-timeout": 0.1,
    "lora.rank": 2,
    "lora.alpha": 4.0,
    "lora.target-modules": "q_proj,v_proj",
    "data.partitioner": "iid",
    "train.batch-size": 8,
    "codec.size": 64,
    "stage-one.sampling-rate": 1.0,
    "stage-one.steps": 2,
    "privacy.epsilon": math.inf,
    "privacy.sampling-rate": 1.0,
    "privacy.delta": 1e-3,
    "privacy.colluders": 0,  # so that a sum carries the very noise that was charged, which many tests measure
    "output.name": "run",
}


@dataclass(frozen=True)
class Files:
    """Where the private examples of all clients and the public held-out ones lie."""

    private: Path
    public: Path


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def ledger_in(folder: Path) -> str:
    """The name of a site's ledger in ``folder``, made where there is none."""
    path = folder / "ledger.jsonl"
    if not path.exists():
        create_ledger(path)
    return str(path)


def spent_in(path: str) -> SiteLedger:
    """What a site's ledger says."""
    return read_ledger(Path(path)) or SiteLedger()


def write_files(folder: Path) -> Files:
    """48 private examples and 12 public questions of the embedded model's world."""
    private = training_examples("elicitation", 48, 1).to_list()
    public = evaluation_examples("elicitation", "evaluation", 1).shuffle(seed=1).select(range(12)).to_list()
    return Files(write_jsonl(folder / "private.jsonl", private), write_jsonl(folder / "public.jsonl", public))


def tiny_config(files: Files, output: Path, changes: Mapping[str, Any] | None = None) -> RunConfig:
    """The tiny run with some keys changed."""
    paths = {"data.name": str(files.private), "data.evaluation": str(files.public), "output.dir": str(output)}
    return checked({**TINY, **paths, **(changes or {})})


def checked(flat: Mapping[str, Any]) -> RunConfig:
    """A configuration as a run takes it: its strategy's own checks passed, files of it too."""
    config = RunConfig.parse(flat)
    check_strategy(config)
    return config


def tiny_grid(config: RunConfig, kind: type[G] = TinyGrid) -> G:  # type: ignore[assignment] - a default for a variable
    """The grid of a tiny run's clients."""
    return kind(client_app, config.flat(), config.federation.num_clients)


def run_tiny(
    config: RunConfig, grid: InProcessGrid | None = None, control: Control = "none", *, plots: bool = False
) -> RunFolder:
    """Run to the end in this process; pictures, examples and the page are as much work as all rounds, so on request."""
    return run_federation(grid or tiny_grid(config), config, control=control, plots=plots)


class HasLayout(Protocol):
    """A model, or only the shape of one."""

    @property
    def layout(self) -> Layout:
        """Where the adapter's tensors lie."""


def planned(config: RunConfig, adapted: HasLayout, clients: int) -> PrivacyPlan:
    """The privacy plan of the configured strategy for an adapter and a number of clients."""
    return plan_run(config, recipe_of(config, adapted.layout), clients)


def tiny_strategy(
    config: RunConfig,
    adapted: AdaptedModel,
    folder: Path,
    evaluate: Callable[[int, Tensor], MetricRecord | None] = lambda *_: None,
) -> FederatedAdapter:
    """A strategy without a results folder; its ledger is ``folder/ledger.jsonl``, its rounds are in ``rounds``."""
    clients = config.federation.num_clients
    recipe = recipe_of(config, adapted.layout)
    account = open_account(recipe, planned(config, adapted, clients), Ledger(folder / "ledger.jsonl"))
    state = RunState(
        optimizer_of(config.server, adapted.initial.clone()),
        base_loss=math.inf,
    )
    rounds: list[Any] = []
    hooks = Hooks(evaluate, lambda _: None, lambda _, summary, __: rounds.append(summary))
    attendance = Attendance(list(range(1, clients + 1)), {}, config.federation)
    strategy = strategy_of(config)(recipe, config, adapted, attendance, account, state, hooks)
    strategy.rounds = rounds  # type: ignore[attr-defined]
    return strategy


def start(strategy: FederatedAdapter, grid: InProcessGrid) -> Tensor:
    """Run all rounds and return the final adapter."""

    strategy.start(grid, pack_adapter(strategy.state.optimizer.adapter), strategy.config.num_server_rounds)
    return strategy.state.optimizer.adapter


def final_adapter(folder: RunFolder) -> Tensor:
    """The adapter of a run's last checkpoint."""
    latest = (folder.checkpoint / "latest").read_text(encoding="utf-8")
    return load_file(folder.checkpoint / latest / "tensors.safetensors")["adapter"]


def vectors(count: int, size: int, seed: int) -> Tensor:
    """Reproducible Gaussian rows."""
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed))
