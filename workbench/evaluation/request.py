"""What ``dr-encoder evaluate`` is asked; imports nothing heavy."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from common.config import ConfigError, RunConfig, Scalar
from workbench.evaluation.adapter_settings import adapter_config

SETS = ("e2e", "dart", "dialogsum")
"""Formats whose rows are scored by the texts that the model writes."""
_READ = ("model", "data", "seed")
_STRONGEST = 10.0  # of a power of a text's length that a float32 holds


@dataclass(frozen=True)
class Beams:
    """How many continuations are followed: one is greedy, the likeliest token each time.

    ``length_penalty``: a beam's log-probability is divided by its length to this power.
    """

    count: int = 1
    length_penalty: float = 1.0

    def __post_init__(self) -> None:
        if not abs(self.length_penalty) <= _STRONGEST:
            raise ConfigError(
                f"--length-penalty {self.length_penalty:g}: give a number from -{_STRONGEST:g} to {_STRONGEST:g}"
            )
        if self.count == 1 and self.length_penalty != 1.0:
            raise ConfigError(f"--length-penalty {self.length_penalty:g}: only beams read it; give --beams 5, say")


GREEDY = Beams()


@dataclass(frozen=True)
class Request:
    """What to evaluate, and on what; ``changes`` are keys of the run configuration."""

    adapter: Path
    tasks: tuple[str, ...] = ()
    data: str = ""
    changes: Mapping[str, Scalar] = field(default_factory=dict)
    include_path: str = ""
    limit: int | None = None
    batch_size: int = 8
    shots: int = 5
    new_tokens: int = 128
    beams: Beams = GREEDY
    base: bool = True

    @property
    def generation(self) -> str:
        """The generation set among the tasks, or ``""``. Raises ``ConfigError`` for more than one."""
        asked = [task for task in self.tasks if task in SETS]
        if len(asked) > 1:
            raise ConfigError(f"tasks {', '.join(asked)}: one set with its --data at a time")
        return asked[0] if asked else ""

    @property
    def asks_harness(self) -> bool:
        """Whether any task is lm-eval's."""
        return any(task not in SETS for task in self.tasks)


def configured(request: Request) -> RunConfig:
    """The configuration to evaluate under; nothing is loaded. Raises ``ConfigError``."""
    for key in request.changes:
        if key in RunConfig().flat() and key.partition(".")[0] not in _READ:
            raise ConfigError(f"--set {key}: no effect, for evaluate reads only {', '.join(_READ)}; leave it out")
    _check_options(request)
    changes = dict(request.changes)
    if request.generation and not request.data:
        own = adapter_config(request.adapter, changes).data
        if own.evaluation and own.format != request.generation:
            raise ConfigError(
                f"task {request.generation}: give its held-out rows with --data; those of the run are of data.format = "
                f'"{own.format}"'
            )
    if request.data:
        changes["data.evaluation"] = request.data
    if request.generation:
        changes |= {"data.format": request.generation, "data.chat-template": _templated(request)}
        changes |= {
            "data.prompt-column": "prompt",
            "data.completion-column": "completion",
            "data.group-column": "group",
        }
    config = adapter_config(request.adapter, changes)
    if request.generation and not config.data.evaluation:
        raise ConfigError(f"task {request.generation}: give its held-out rows with --data")
    config.check_files()
    return config


def _templated(request: Request) -> bool:
    """Whether the run asked in a chat template, as one on ``chat`` rows does: the adapter knows no other prompt."""
    return adapter_config(request.adapter, request.changes).data.templated


def _check_options(request: Request) -> None:
    """Refuse options that none of the tasks reads, and a folder of tasks that is not there."""
    texts = {"--beams": request.beams != GREEDY, "--new-tokens": request.new_tokens != Request.new_tokens}
    harness = {"--shots": request.shots != Request.shots, "--include-path": bool(request.include_path)}
    wanted = [(texts, bool(request.generation), " and ".join(SETS)), (harness, request.asks_harness, "lm-eval tasks")]
    for options, read, readers in wanted:
        idle = [option for option, given in options.items() if given and not read]
        if idle:
            raise ConfigError(f"{', '.join(idle)}: no effect, for only {readers} of --tasks read it; leave it out")
    if request.include_path and not Path(request.include_path).is_dir():
        raise ConfigError(f'--include-path "{request.include_path}": no such folder; give one of lm-eval task files')
