"""What a comparison consists of: every cell (task, strategy, ε) with its configuration, checked before any run."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

from common.config import ConfigError, RunConfig, Scalar
from common.data import check_evaluation_is_public
from server_app.privacy.stage_one import empty_stage_one
from server_app.results.tracking import tracked
from server_app.rounds.controls import CONTROLS, Control
from server_app.run import check_run, plan_run
from server_app.strategies import recipe_of
from workbench.compare.runs import Job
from workbench.compare.spec import (
    CENTRALIZED,
    OWN,
    TUNING_SEED,
    ComparisonSpec,
    Entry,
    cell_config,
    check_spec,
    tuning_keys,
)
from workbench.compare.tuning import start_step
from workbench.planning.architectures import shape_of

_CURVE_POINTS = 5  # evaluations of a reported run, each a pass over all held-out rows


@dataclass(frozen=True)
class Cell:
    """One row of the result: a strategy on a task at an ε, whose step is still to be found.

    ``flat`` lacks seed, step and (in tuning) the validation split; ``controls`` are those that are run beside it;
    ``warning``: what may go wrong in some of its runs, or ``""``.
    """

    task: str
    entry: Entry
    epsilon: float
    flat: Mapping[str, Scalar]
    start: float
    controls: tuple[Control, ...] = ()
    warning: str = ""

    @property
    def label(self) -> str:
        """How people are told of it."""
        return f"{self.task}, {self.entry.label}, epsilon {self.epsilon:g}"

    def tuning(self, step: float, number: int) -> Job:
        """A trial of ``step`` with tuning seed ``number`` (from 1), on public examples that are never reported."""
        changes = {**tuning_keys(self.task, self.flat), "server.learning-rate": step, "seed": TUNING_SEED + number}
        return Job("tuning", f"{self.label}, step {step:g}", {**self.flat, **changes})

    def evaluation(self, step: float, seed: int, control: Control = "none") -> Job:
        """A run that is reported, or one of its controls."""
        purpose = "evaluation" if control == "none" else f"control {control}"
        every = math.ceil(int(self.flat["num-server-rounds"]) / _CURVE_POINTS)
        changes: dict[str, Scalar] = {"server.learning-rate": step, "seed": seed}
        changes |= {"evaluation.every": every} if control == "none" else {}
        return Job(purpose, f"{self.label}, {purpose}, seed {seed}", {**self.flat, **changes}, control)


def make_cells(spec: ComparisonSpec, preset: Mapping[str, Scalar], changes: Mapping[str, Scalar]) -> list[Cell]:
    """Every cell of the comparison, the centralized reference of each task first if wanted.

    Raises ``ConfigError`` for whatever would make a run be refused: unknown names, a cohort larger than the clients, a
    budget that cannot be met.
    """
    flat = check_spec(spec, preset, changes)
    if OWN in spec.tasks:  # a tuning run has only one of the two sets, so it would not be seen before the last runs
        data = RunConfig.parse(flat).data
        check_evaluation_is_public(data, int(flat["federation.num-clients"]), int(flat["seed"]))
    entries = [Entry.parse(text) for text in spec.strategies]
    cells = [_centralized(task, flat) for task in spec.tasks] if spec.centralized else []
    rows = list(itertools.product(spec.tasks, entries, spec.epsilons))
    cells += [_cell(*row, flat, spec.controls) for row in tracked(rows, "planned rows")]
    return sorted(cells, key=lambda cell: spec.tasks.index(cell.task))  # a task's reference comes first


def _cell(task: str, entry: Entry, epsilon: float, flat: Mapping[str, Scalar], controls: str) -> Cell:
    label = f"{entry.label} at epsilon {epsilon:g}"
    try:
        config = cell_config(task, entry, epsilon, flat)
        check_run(config)
        recipe = recipe_of(config, shape_of(config.model, config.lora).layout)
        plan = plan_run(config, recipe, config.federation.num_clients)
    except ConfigError as error:
        raise ConfigError(f"{label}: {error}") from None
    start = start_step(plan.mean_noise(recipe.code_size))
    wanted = controls == "all" or (controls == "learned" and recipe.learned)
    warning = empty_stage_one(recipe.stage_one, plan.clients, noisy=plan.noisy_stage_one)
    return Cell(task, entry, epsilon, config.flat(), start, CONTROLS[1:] if wanted else (), warning)


def _centralized(task: str, flat: Mapping[str, Scalar]) -> Cell:
    """The same data pooled at one party that trains without privacy: as many steps, each on as many examples."""
    clients = int(flat["federation.num-clients"])
    cohort = round(clients * float(flat["privacy.sampling-rate"]))
    pooled: dict[str, Scalar] = {
        "strategy.name": "lora",
        "federation.num-clients": 1,
        "data.partitioner": "iid",
        "privacy.epsilon": math.inf,
        "privacy.sampling-rate": 1.0,
        "privacy.delta": 0.0,
    }
    if task == OWN:  # a batch of all of a cohort's examples would not fit where one client's does
        pooled["train.gradient-accumulation"] = cohort * int(flat["train.gradient-accumulation"])
    else:
        pooled |= {
            "data.task": task,
            "data.examples-per-client": clients * int(flat["data.examples-per-client"]),
            "train.batch-size": cohort * int(flat["train.batch-size"]),
        }
    config = RunConfig.parse({**flat, **pooled})
    return Cell(task, Entry(CENTRALIZED, "lora"), math.inf, config.flat(), start_step(0.0))
