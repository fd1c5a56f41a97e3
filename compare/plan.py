"""What a comparison consists of: every cell (task, strategy, ε) with its configuration, checked before any run."""

import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from common.config import ConfigError, RunConfig, Scalar
from common.demo.tasks import VALIDATION
from common.models import load_adapted_model
from compare.runs import Job
from compare.tuning import FIRST, start_step
from server_app.control import CONTROLS
from server_app.privacy_plan import mean_noise
from server_app.run import check_run, code_size, plan_run
from server_app.stage_one_risk import empty_stage_one
from server_app.strategies import STRATEGIES

CENTRALISED = "centralised"
TUNING: dict[str, dict[str, Scalar]] = {
    name: {"data.task": task, "data.split": split} for name, (task, split) in VALIDATION.items()
}
"""For every private task the public examples that steps are tuned on: other facts than those that are evaluated."""

TUNING_SEED = 1000  # tuning draws other clients' data and other adapters than any evaluated run
_COHORT = 100
_OWN = {
    "strategy.name": "use --strategies",
    "privacy.epsilon": "use --epsilons",
    "seed": "use --seeds",
    "federation.num-clients": "use --clients",
    "privacy.sampling-rate": "use --cohort",
    "num-server-rounds": "use --rounds",
    "data.task": "use --tasks",
    "data.split": "use --tasks",
    "server.learning-rate": "leave it out, for every row's step is tuned (--trials says how often)",
    "server.control": "use --controls",
    "privacy.noise-multiplier": "use --epsilons",
    "evaluation.every": "leave it out, for runs are evaluated at their end",
    "data.name": "leave it out, for only the demo data have a public validation split",
}
"""Keys that a comparison sets itself, and what to do in their place."""

_NOT_IN_PRESETS = ("server.control", "privacy.noise-multiplier")
"""Of these, what no preset may bring: the others are replaced, which these would survive or contradict."""


@dataclass(frozen=True)
class Entry:
    """A strategy as it is compared: its registered name and the keys that it alone has."""

    label: str
    name: str
    changes: tuple[tuple[str, Scalar], ...] = ()

    @classmethod
    def parse(cls, text: str) -> "Entry":
        """Read ``name`` or ``name+key=value+key=value``; raises ``ConfigError``."""
        name, *parts = text.split("+")
        if name not in STRATEGIES:
            raise ConfigError(f'--strategies "{text}": registered are {", ".join(sorted(STRATEGIES))}')
        where = f'--strategies "{text}"'
        changes = read_changes(parts, where)
        if "privacy.delta" in changes:
            raise ConfigError(f"{where}: with a privacy.delta of its own an equal ε means nothing; use --set, for all")
        return cls(text, name, tuple(sorted(changes.items())))


@dataclass(frozen=True)
class Wish:
    """What was asked for, as on the command line; ``cohort`` and ``rounds`` 0: as the preset or the default says."""

    strategies: Sequence[str]
    epsilons: Sequence[float]
    tasks: Sequence[str]
    seeds: int
    clients: int = 0
    cohort: int = 0
    rounds: int = 0
    trials: int = 6
    tuning_seeds: int = 2
    controls: str = "learned"
    centralised: bool = True


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
    controls: tuple[str, ...] = ()
    warning: str = ""

    @property
    def label(self) -> str:
        """How people are told of it."""
        return f"{self.task}, {self.entry.label}, epsilon {self.epsilon:g}"

    def tuning(self, step: float, number: int) -> Job:
        """A trial of ``step`` with tuning seed ``number`` (from 1), on public examples that are never reported."""
        changes = {**TUNING[self.task], "server.learning-rate": step, "seed": TUNING_SEED + number}
        return Job("tuning", f"{self.label}, step {step:g}", {**self.flat, **changes})

    def evaluation(self, step: float, seed: int, control: str = "none") -> Job:
        """A run that is reported, or one of its controls."""
        purpose = "evaluation" if control == "none" else f"control {control}"
        changes: dict[str, Scalar] = {"server.learning-rate": step, "seed": seed, "server.control": control}
        return Job(purpose, f"{self.label}, {purpose}, seed {seed}", {**self.flat, **changes})


def read_changes(parts: Iterable[str], where: str) -> dict[str, Scalar]:
    """``key=value`` entries with values in TOML syntax (a bare word is text); a key of the comparison's is refused."""
    changes: dict[str, Scalar] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        key = key.strip()
        if not equals:
            raise ConfigError(f'{where}: "{part}" is not key=value')
        if key in _OWN:
            raise ConfigError(f"{where}: {key} is the comparison's own; {_OWN[key]}")
        try:
            changes[key] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            changes[key] = value.strip()
    return changes


def read_epsilons(text: str) -> list[float]:
    """Comma-separated budgets; raises ``ConfigError`` unless each is above 0 (``inf``: no privacy)."""
    found = []
    for part in text.split(","):
        try:
            value = float(part)
        except ValueError:
            value = math.nan
        if not value > 0:
            raise ConfigError(f'--epsilons "{part.strip()}": give numbers above 0, or inf for no privacy')
        found.append(value)
    return found


def make_cells(wish: Wish, preset: Mapping[str, Scalar], changes: Mapping[str, Scalar]) -> list[Cell]:
    """Every cell of the comparison, the centralised reference of each task first if wanted.

    Raises ``ConfigError`` for whatever would make a run be refused: unknown names, a cohort larger than the clients, a
    budget that cannot be met.
    """
    _check_numbers(wish)
    entries = [Entry.parse(text) for text in wish.strategies]
    for name, values in (("--strategies", wish.strategies), ("--epsilons", wish.epsilons), ("--tasks", wish.tasks)):
        if len(set(values)) < len(values) or not values:
            raise ConfigError(f"{name} {', '.join(map(str, values))}: name each once, and at least one")
    flat = _common(wish, preset) | dict(changes)
    if flat["data.name"] != "demo":
        raise ConfigError(f'data.name = "{flat["data.name"]}": {_OWN["data.name"]}')
    cells = []
    for task in wish.tasks:
        if task not in TUNING:
            raise ConfigError(f'--tasks "{task}": there are {", ".join(TUNING)}')
        cells += [_centralised(task, flat)] if wish.centralised else []
        for entry in entries:
            cells += [_cell(task, entry, epsilon, flat, wish.controls) for epsilon in wish.epsilons]
    return cells


def _check_numbers(wish: Wish) -> None:
    least = {"seeds": 1, "clients": 0, "cohort": 0, "rounds": 0, "trials": FIRST, "tuning_seeds": 1}
    for name, bound in least.items():
        if getattr(wish, name) < bound:
            raise ConfigError(f"--{name.replace('_', '-')} {getattr(wish, name)}: at least {bound}")
    if wish.seeds > TUNING_SEED:
        raise ConfigError(f"--seeds {wish.seeds}: at most {TUNING_SEED}, beyond which lie the tuning seeds")
    if wish.controls not in ("learned", "all", "none"):
        raise ConfigError(f'--controls "{wish.controls}": learned, all or none')


def _common(wish: Wish, preset: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """The keys that all runs share: M, K, T, δ = 1/(10 M) when M is given, evaluation at the end only."""
    plain = RunConfig().flat()
    for key in _NOT_IN_PRESETS:
        if preset.get(key, plain[key]) != plain[key]:
            raise ConfigError(f"--preset: {key} = {preset[key]} there is the comparison's own; {_OWN[key]}")
    flat = RunConfig.parse(preset).flat()
    known = int(flat["federation.num-clients"])
    clients = wish.clients or known
    if not clients:
        raise ConfigError("--clients: the preset does not say how many; give a number")
    cohort = wish.cohort or min(clients, _COHORT)
    if cohort > clients:
        raise ConfigError(f"--cohort {cohort}: larger than the {clients} clients")
    rounds = wish.rounds or int(flat["num-server-rounds"])
    delta = flat["privacy.delta"] if clients == known else 0.0
    return flat | {
        "federation.num-clients": clients,
        "privacy.sampling-rate": cohort / clients,
        "privacy.delta": delta,
        "num-server-rounds": rounds,
        "evaluation.every": rounds,
        "data.split": "evaluation",
    }


def _cell(task: str, entry: Entry, epsilon: float, flat: Mapping[str, Scalar], controls: str) -> Cell:
    keys = {**flat, **dict(entry.changes), "strategy.name": entry.name, "data.task": task, "privacy.epsilon": epsilon}
    label = f"{entry.label} at epsilon {epsilon:g}"
    try:
        config = RunConfig.parse(keys)
        check_run(config)
        adapted = load_adapted_model(config.model, config.lora, config.seed)
        plan = plan_run(config, adapted, config.federation.num_clients)
        size = code_size(config, adapted.layout)
    except ConfigError as error:
        raise ConfigError(f"{label}: {error}") from None
    start = start_step(mean_noise(config.privacy, plan, size))
    learned = STRATEGIES[entry.name].learns_codec(config)
    wanted = controls == "all" or (controls == "learned" and learned)
    warning = empty_stage_one(config, plan, adapted.layout)
    return Cell(task, entry, epsilon, config.flat(), start, CONTROLS[1:] if wanted else (), warning)


def _centralised(task: str, flat: Mapping[str, Scalar]) -> Cell:
    """The same data pooled at one party that trains without privacy: as many steps, each on as many examples."""
    clients = int(flat["federation.num-clients"])
    cohort = round(clients * float(flat["privacy.sampling-rate"]))
    pooled: dict[str, Scalar] = {
        "strategy.name": "lora",
        "data.task": task,
        "federation.num-clients": 1,
        "data.partitioner": "iid",
        "data.examples-per-client": clients * int(flat["data.examples-per-client"]),
        "train.batch-size": cohort * int(flat["train.batch-size"]),
        "privacy.epsilon": math.inf,
        "privacy.sampling-rate": 1.0,
        "privacy.delta": 0.0,
    }
    config = RunConfig.parse({**flat, **pooled})
    return Cell(task, Entry(CENTRALISED, "lora"), math.inf, config.flat(), start_step(0.0))
