"""The strategies by name. A new one is one file and one line here.

Nothing is imported before a strategy is asked for: what only needs the names, or the keys that a strategy reads, need
not wait for torch and Flower.
"""

from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING

from common.config import ConfigError, RunConfig, refuse_faults
from server_app.strategies import fedcg_checks

if TYPE_CHECKING:
    from common.adapter import Layout
    from server_app.strategies.base import FederatedAdapter
    from server_app.strategies.recipe import Recipe


def _nothing(config: RunConfig) -> list[str]:
    """No fault at all."""
    return []


@dataclass(frozen=True)
class Entry:
    """A strategy: its class, ``module:Name`` in this package, and what it reads and refuses of the configuration.

    ``sections``: those of the configuration that it reads and not every strategy does. ``ignores``: the keys of these
    that it does not read all the same. ``faults``: what it cannot do.
    """

    place: str
    sections: tuple[str, ...] = ()
    ignores: tuple[str, ...] = ()
    faults: Callable[[RunConfig], list[str]] = _nothing

    def load(self) -> type["FederatedAdapter"]:
        """Import the class."""
        module, _, name = self.place.partition(":")
        found: type[FederatedAdapter] = getattr(import_module(f"{__name__}.{module}"), name)
        return found


class Registry(MutableMapping[str, type["FederatedAdapter"]]):
    """Names of strategies to their classes; a class may be put in directly, and is then taken to read every section."""

    def __init__(self, entries: dict[str, Entry]) -> None:
        self._entries: dict[str, Entry | type[FederatedAdapter]] = dict(entries)

    def __getitem__(self, name: str) -> type["FederatedAdapter"]:
        entry = self._entries[name]
        return entry.load() if isinstance(entry, Entry) else entry

    def __setitem__(self, name: str, strategy: type["FederatedAdapter"]) -> None:
        self._entries[name] = strategy

    def __delitem__(self, name: str) -> None:
        del self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def entry(self, name: str) -> Entry:
        """What strategy ``name`` reads and refuses."""
        entry = self._entries[name]
        return entry if isinstance(entry, Entry) else Entry("", OPTIONAL_SECTIONS)


STRATEGIES = Registry(
    {
        "dr-encoder": Entry("dr_encoder:DrEncoder", ("codec", "stage-one"), ("stage-one.clip-norm",)),
        "fedcg": Entry(
            "fedcg:FedCg",
            ("codec", "stage-one"),
            ("codec.form", "stage-one.estimator"),
            fedcg_checks.faults,
        ),
        "fedlpp": Entry("fedlpp:FedLpp", ("fedlpp",)),
        "lora": Entry("lora:Lora"),
        "random-projection": Entry("random_projection:RandomProjection", ("codec",)),
    }
)
OPTIONAL_SECTIONS = tuple(sorted({section for name in STRATEGIES for section in STRATEGIES.entry(name).sections}))
"""Sections of the configuration that only some strategies read; every strategy reads all the others."""


def check_strategy_name(name: str) -> None:
    """Raise ``ConfigError`` for a strategy that is not registered."""
    if name not in STRATEGIES:
        raise ConfigError(f'strategy.name = "{name}": registered are {", ".join(sorted(STRATEGIES))}')


def check_strategy(config: RunConfig) -> None:
    """Raise ``ConfigError`` for a strategy that is not registered, or that cannot do what else is configured."""
    check_strategy_name(config.strategy.name)
    refuse_faults(STRATEGIES.entry(config.strategy.name).faults(config))


def strategy_of(config: RunConfig) -> type["FederatedAdapter"]:
    """The configured strategy; raises ``ConfigError`` for a name that is not registered."""
    check_strategy_name(config.strategy.name)
    return STRATEGIES[config.strategy.name]


def recipe_of(config: RunConfig, layout: "Layout") -> "Recipe":
    """What the configured strategy is for an adapter; raises ``ConfigError`` where it could make no codec for it."""
    recipe = strategy_of(config).recipe_for(config, layout)
    return replace(recipe, refresh_every=config.codec.refresh_every)
