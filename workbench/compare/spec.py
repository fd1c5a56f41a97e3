"""What a comparison is asked for, read from the command line and checked; imports nothing heavy."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from common.config import ConfigError, RunConfig, Scalar
from common.counts import count
from common.demo.task_names import VALIDATION
from server_app.strategies import STRATEGIES
from server_app.strategies.reading import unread
from workbench.cli.overrides import parse_override
from workbench.cli.unread_keys import refuse_unread
from workbench.compare.tuning import FIRST

CENTRALIZED = "centralized"
TUNING: dict[str, dict[str, Scalar]] = {name: {"data.task": task} for name, task in VALIDATION.items()}
"""For every private task the public examples that steps are tuned on: other facts than those that are evaluated."""

OWN = "own"
"""The task of a comparison on data of one's own."""
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
    "server.learning-rate": "leave it out, for every row's step is tuned (--trials says how often)",
    "privacy.noise-multiplier": "use --epsilons",
    "evaluation.every": "leave it out, for runs are evaluated at their end",
}
"""Keys that a comparison sets itself, and what to do in their place."""

_NOT_IN_PRESETS = ("privacy.noise-multiplier",)
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
class ComparisonSpec:
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
    centralized: bool = True


def read_changes(parts: Iterable[str], where: str) -> dict[str, Scalar]:
    """``key=value`` entries with values in TOML syntax (a bare word is text); a key of the comparison's is refused."""
    changes: dict[str, Scalar] = {}
    for part in parts:
        key, value = parse_override(part, where)
        if key in _OWN:
            raise ConfigError(f"{where}: {key} is the comparison's own; {_OWN[key]}")
        changes[key] = value
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


def check_spec(spec: ComparisonSpec, preset: Mapping[str, Scalar], changes: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """The keys that all runs share, once everything is refused that a look at the names and values can refuse.

    Raises ``ConfigError``.
    """
    _check_numbers(spec)
    entries = [Entry.parse(text) for text in spec.strategies]
    for name, values in (("--strategies", spec.strategies), ("--epsilons", spec.epsilons), ("--tasks", spec.tasks)):
        if len(set(values)) < len(values) or not values:
            raise ConfigError(f"{name} {', '.join(map(str, values))}: name each once, and at least one")
    flat = _common(spec, preset) | dict(changes)
    _check_tasks(spec, flat)
    for epsilon in spec.epsilons:
        for entry in entries:
            cell_config(spec.tasks[0], entry, epsilon, flat)
    return flat


def _check_tasks(spec: ComparisonSpec, flat: Mapping[str, Scalar]) -> None:
    """The demo's tasks for its data; for others the one that they are, with rows to score and others to tune on."""
    if flat["data.name"] == "demo":
        for task in spec.tasks:
            if task not in TUNING:
                raise ConfigError(f'--tasks "{task}": there are {", ".join(TUNING)}')
        return
    if list(spec.tasks) != [OWN]:
        raise ConfigError(f"--tasks {', '.join(spec.tasks)}: of the demo data only; leave it out with data.name")
    for key, what in (("data.evaluation", "scores are of"), ("data.validation", "steps are tuned on")):
        if not flat[key]:
            raise ConfigError(f'{key} = "": {what} public held-out rows; name a file or hub id with --set {key}=...')


def tuning_keys(task: str, flat: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """The keys of a run that is scored on the public rows that steps are tuned on."""
    if task == OWN:
        return {"data.evaluation": flat["data.validation"], "data.validation": ""}
    return dict(TUNING[task])


def refuse_without_effect(spec: ComparisonSpec, flat: Mapping[str, Scalar], changes: Mapping[str, Scalar]) -> None:
    """Refuse a key of one strategy that it does not read, and one for all that none of them reads (``ConfigError``)."""
    entries = [Entry.parse(text) for text in spec.strategies]
    configs = {entry: cell_config(spec.tasks[0], entry, spec.epsilons[0], flat) for entry in entries}
    for entry, config in configs.items():
        refuse_unread(config, dict(entry.changes), f'--strategies "{entry.label}":')
    for key in changes:
        if all(unread(config, [key]) for config in configs.values()):
            refuse_unread(configs[entries[0]], {key: changes[key]})


def cell_config(task: str, entry: Entry, epsilon: float, flat: Mapping[str, Scalar]) -> RunConfig:
    """The configuration of a row but for seed, step and split; raises ``ConfigError`` with the row's name."""
    keys = {**flat, **dict(entry.changes), "strategy.name": entry.name, "privacy.epsilon": epsilon}
    keys |= {} if task == OWN else {"data.task": task}
    try:
        return RunConfig.parse(keys)
    except ConfigError as error:
        raise ConfigError(f"{entry.label} at epsilon {epsilon:g}: {error}") from None


def _check_numbers(spec: ComparisonSpec) -> None:
    least = {"seeds": 1, "clients": 0, "cohort": 0, "rounds": 0, "trials": FIRST, "tuning_seeds": 1}
    for name, bound in least.items():
        if getattr(spec, name) < bound:
            raise ConfigError(f"--{name.replace('_', '-')} {getattr(spec, name)}: at least {bound}")
    if spec.seeds > TUNING_SEED:
        raise ConfigError(f"--seeds {spec.seeds}: at most {TUNING_SEED}, beyond which lie the tuning seeds")
    if spec.controls not in ("learned", "all", "none"):
        raise ConfigError(f'--controls "{spec.controls}": learned, all or none')


def _common(spec: ComparisonSpec, preset: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """The keys that all runs share: M, K, T, δ = 1/(10 M) when M is given, evaluation at the end only."""
    plain = RunConfig().flat()
    for key in _NOT_IN_PRESETS:
        if preset.get(key, plain[key]) != plain[key]:
            raise ConfigError(f"--preset: {key} = {preset[key]} there is the comparison's own; {_OWN[key]}")
    flat = RunConfig.parse(preset).flat()
    known = int(flat["federation.num-clients"])
    clients = spec.clients or known
    if not clients:
        raise ConfigError("--clients: the preset does not say how many; give a number")
    cohort = spec.cohort or min(clients, _COHORT)
    if cohort > clients:
        raise ConfigError(f"--cohort {cohort}: larger than the {count(clients, 'client')}")
    rounds = spec.rounds or int(flat["num-server-rounds"])
    delta = flat["privacy.delta"] if clients == known else 0.0
    return flat | {
        "federation.num-clients": clients,
        "privacy.sampling-rate": cohort / clients,
        "privacy.delta": delta,
        "num-server-rounds": rounds,
        "evaluation.every": rounds,
    }
