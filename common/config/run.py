"""The run configuration: typed, validated before anything starts, every error naming its key.

Flower hands an app one flat mapping of dotted keys (``privacy.epsilon``) to bool, int, float or str.
``RunConfig.parse`` turns it into frozen sections and refuses unknown keys, wrong types and contradictions.
"""

import difflib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from common.config.allowed import describe_allowed
from common.config.fields import Rounds, Section, Seed
from common.config.sections import (
    CodecConfig,
    DataConfig,
    EvaluationConfig,
    FederationConfig,
    LoraConfig,
    ModelConfig,
    OutputConfig,
    PrivacyConfig,
    ServerConfig,
    StrategyConfig,
    TrainConfig,
)
from common.config.strategy_sections import (
    FedlppConfig,
    StageOneConfig,
)
from common.file_names import names_a_file

Scalar = bool | int | float | str
_SUGGESTIONS, _ALIKE, _HELD = 3, 0.6, 0.9  # keys named beside an unknown one; least likeness; that of held words
_LARGEST = 2**63 - 1  # whole number that Flower carries


class ConfigError(ValueError):
    """The configuration cannot be run; the message names each key, its value and what is allowed."""


class RunConfig(Section):
    """The whole configuration of a run."""

    num_server_rounds: Rounds = Field(40, description="communication rounds T")
    seed: Seed = Field(1, description="seed of everything that is not privacy noise")
    resume: str = Field("", description="folder of an interrupted run to continue")
    strategy: StrategyConfig = StrategyConfig()
    federation: FederationConfig = FederationConfig()
    model: ModelConfig = ModelConfig()
    lora: LoraConfig = LoraConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    codec: CodecConfig = CodecConfig()
    fedlpp: FedlppConfig = FedlppConfig()
    stage_one: StageOneConfig = StageOneConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    server: ServerConfig = ServerConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    output: OutputConfig = OutputConfig()

    @classmethod
    def parse(cls, flat: Mapping[str, Any]) -> "RunConfig":
        """Validate a flat mapping of dotted kebab-case keys; all faults are reported at once in a ``ConfigError``.

        >>> RunConfig.parse({"codec.size": 64, "train.batch-size": 8}).codec.size
        64
        """
        try:
            return cls.model_validate(nest(flat), by_alias=True, by_name=False)  # a key has one spelling
        except ValidationError as error:
            raise ConfigError(_explain(error)) from None

    def flat(self) -> dict[str, Scalar]:
        """The configuration as Flower carries it: dotted keys to scalars, every key present."""
        return flatten(self.model_dump(by_alias=True))

    def folder_name(self) -> str:
        """Folder of a new run: the configured name, else time and strategy."""
        return self.output.name or f"{time.strftime('%Y%m%d-%H%M%S')}-{self.strategy.name}"

    def check_files(self) -> None:
        """Refuse files that are missing. Only the server reads them, so only the server checks them."""
        faults = []
        for key, name in (("evaluation", self.data.evaluation), ("validation", self.data.validation)):
            if names_a_file(name) and not Path(name).exists():
                faults.append(f'data.{key} = "{name}": no such file; give a JSONL, CSV or Parquet, or a hub id')
        if self.resume and not (Path(self.resume) / "config.toml").is_file():
            faults.append(f'resume = "{self.resume}": no run there; give the folder of an interrupted run')
        refuse_faults(faults)

    @model_validator(mode="after")
    def _consistent(self) -> "RunConfig":
        if not self.lora.targets:
            raise ValueError(
                'lora.target-modules = "": name at least one module, for example "q_proj,v_proj", or "auto"'
            )
        if self.train.local_epochs and self.train.gradient_accumulation > 1:
            raise ValueError(
                f"train.gradient-accumulation = {self.train.gradient_accumulation} counts micro-batches of a step: "
                "use train.local-steps, or set it to 1 with train.local-epochs"
            )
        faults = [*_model_faults(self), *_not_carried(self.flat())]
        if faults:
            raise ValueError("; ".join(faults))
        return self


def unknown_keys(flat: Mapping[str, Any]) -> list[str]:
    """Those of dotted keys that no run has, of a section that none has the section, sorted.

    >>> unknown_keys({"codec.size": 64, "codec.depth": 3, "history.rows": 1, "history.decay": 0.9})
    ['codec.depth', 'history.*']
    """
    known = RunConfig().flat()
    sections = {key.partition(".")[0] for key in known}
    lacking = [key for key in flat if key not in known]
    return sorted({key if key.partition(".")[0] in sections else f"{key.partition('.')[0]}.*" for key in lacking})


def known_keys(flat: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Those of dotted keys that a run has: what an earlier version saved beside them is passed over."""
    return {key: flat[key] for key in RunConfig().flat() if key in flat}


def _model_faults(config: RunConfig) -> list[str]:
    """What the embedded model has no use for (it is float32 and small), and two answers to where a model lives."""
    model = config.model
    if model.device_map != "none" and model.device != "auto":
        return [
            f'model.device-map = "{model.device_map}" with model.device = "{model.device}": layers are either spread '
            'or on one device; set model.device = "auto", or model.device-map = "none"'
        ]
    unused = {
        "model.quantization": (model.quantization, "none"),
        "model.dtype": (model.dtype, "float32"),
        "model.device-map": (model.device_map, "none"),
    }
    if model.name != "demo":
        return []
    return [
        f'{key} = "{value}" with model.name = "demo": the embedded model is float32 and small; set it to "{needed}"'
        for key, (value, needed) in unused.items()
        if value not in {needed, "auto"}
    ]


def _not_carried(flat: Mapping[str, Scalar]) -> list[str]:
    """Values that no message of Flower or no path can have."""
    return [
        *(f"{key} = {value}: the largest whole number is {_LARGEST}" for key, value in flat.items()
          if isinstance(value, int) and value > _LARGEST),
        *(f"{key} = {value!r}: a text cannot hold a null character" for key, value in flat.items()
          if isinstance(value, str) and "\0" in value),
    ]  # fmt: skip


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys to sections, as TOML writes them; plain keys first, where TOML wants them."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        section, dot, name = key.partition(".")
        if dot:
            nested.setdefault(section, {})[name] = value
        else:
            nested[key] = value
    return dict(sorted(nested.items(), key=lambda pair: isinstance(pair[1], dict)))


def flatten(nested: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of ``nest``; ``ConfigError`` for a key that is there in both spellings, in a section and dotted."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        found = {f"{key}.{name}": item for name, item in value.items()} if isinstance(value, Mapping) else {key: value}
        if twice := flat.keys() & found.keys():
            raise ConfigError(f"{min(twice)} is given twice, in its section and in quotation marks: leave one")
        flat.update(found)
    return flat


def _explain(error: ValidationError) -> str:
    lines = []
    for fault in error.errors():
        key = ".".join(map(str, fault["loc"]))
        if fault["type"] == "extra_forbidden":
            nearest = nearest_table(key) if isinstance(fault["input"], Mapping) else nearest_keys(key)
            lines.append(f"{key}: unknown key; {nearest}`dr-encoder keys` lists all of them")
        elif fault["type"] == "value_error":
            lines.append(str(fault["ctx"]["error"]))
        elif fault["type"] == "model_type":
            lines.append(f"{key} = {fault['input']!r}: {key} is a section; set a key of it, {_first_key(key)} say")
        else:
            allowed = allowed_values(key)
            right = f"; allowed: {allowed}" if allowed else ""
            lines.append(f"{key} = {fault['input']!r}: {fault['msg']}{right}{_describe(key)}")
    return _list_faults(lines)


def refuse_faults(faults: list[str]) -> None:
    """Raise ``ConfigError`` with all of them, a line each, if there are any."""
    if faults:
        raise ConfigError(_list_faults(faults))


def _list_faults(lines: list[str]) -> str:
    return "The run configuration is not valid:\n" + "\n".join(f"  - {line}" for line in lines)


def key_table() -> list[tuple[str, Scalar, str]]:
    """Every key with its default and its meaning, in the order of the sections."""
    return [(key, value, _field_text(key)) for key, value in RunConfig().flat().items()]


def nearest_keys(key: str) -> str:
    """The keys that look most like ``key``, as a question; ``""`` when none does."""
    likeness = {name: _likeness(key, name) for name in RunConfig().flat()}
    alike = [name for name in sorted(likeness, key=lambda name: -likeness[name]) if likeness[name] >= _ALIKE]
    return f"did you mean {' or '.join(alike[:_SUGGESTIONS])}? " if alike else ""


def nearest_table(table: str) -> str:
    """The section that looks most like ``table``, as a question; ``""`` when none does."""
    sections = [name for name, value in RunConfig().model_dump(by_alias=True).items() if isinstance(value, Mapping)]
    alike = difflib.get_close_matches(table, sections, 1, _ALIKE)
    return f"did you mean [{alike[0]}]? " if alike else ""


def _first_key(section: str) -> str:
    return next(key for key in RunConfig().flat() if key.startswith(f"{section}."))


def _likeness(key: str, name: str) -> float:
    """From 0 to 1, of two keys: as they stand or without their sections; a last part that holds the other is alike."""
    last, other = (text.rpartition(".")[2] for text in (key, name))
    held = _HELD if set(last.split("-")) <= set(other.split("-")) else 0.0
    return max(held, *(difflib.SequenceMatcher(None, *pair).ratio() for pair in ((key, name), (last, other))))


def _describe(key: str) -> str:
    text = _field_text(key)
    return f" ({text})" if text else ""


def _field_text(key: str) -> str:
    field = _field_of(key)
    return field.description or "" if field is not None else ""


def allowed_values(key: str) -> str:
    """What the values of a key may be, in words: choices, or a kind with its range; "" for an unknown key."""
    field = _field_of(key)
    return describe_allowed(field) if field is not None else ""


def _field_of(key: str) -> FieldInfo | None:
    section, dot, name = key.partition(".")
    field: Any = RunConfig.model_fields.get((section if dot else key).replace("-", "_"))
    if field is not None and dot and field.annotation is not None:
        members = getattr(field.annotation, "model_fields", {})
        field = members.get(name.replace("-", "_"))
    return field if isinstance(field, FieldInfo) else None
