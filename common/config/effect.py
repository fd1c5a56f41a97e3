"""Keys that are read only beside certain values of others, so that one without an effect is not set in vain."""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from common.config.run import RunConfig

_Test = Callable[["RunConfig"], bool]


def _several_steps(config: "RunConfig") -> bool:
    return config.train.local_steps > 1 or config.train.local_epochs > 0


def _demo(config: "RunConfig") -> bool:
    return config.data.name == "demo"


ONLY_IF: dict[str, tuple[_Test, str]] = {
    "codec.form": (lambda config: config.codec.kind == "linear", 'codec.kind = "linear"'),
    "data.dirichlet-alpha": (lambda config: config.data.partitioner == "dirichlet", 'data.partitioner = "dirichlet"'),
    "data.validation": (lambda config: bool(config.data.evaluation) or _demo(config), "data.evaluation"),
    "federation.cover": (
        lambda config: config.privacy.trust != "secure",
        "privacy.trust other than secure, in which every client answers every round",
    ),
    "privacy.dropouts": (lambda config: config.privacy.trust == "secure", 'privacy.trust = "secure"'),
    "data.task": (_demo, 'data.name = "demo"'),
    "data.examples-per-client": (_demo, 'data.name = "demo"'),
    "stage-one.clip-norm": (lambda config: config.stage_one.private, "stage-one.private = true"),
    "train.learning-rate": (_several_steps, "train.local-steps above 1, or train.local-epochs"),
}
"""For every such key, whether a configuration reads it, and beside what it is read, in words."""
