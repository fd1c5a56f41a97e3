"""The configuration of a run; see ``run`` for parsing, ``sections`` and ``strategy_sections`` for the keys."""

from common.config.effect import ONLY_IF
from common.config.fields import LARGEST_ROUNDS, Section
from common.config.run import (
    ConfigError,
    RunConfig,
    Scalar,
    allowed_values,
    flatten,
    key_table,
    names_a_file,
    nearest_keys,
    nearest_table,
    nest,
    refuse_faults,
)
from common.config.sections import (
    LARGEST_EPSILON,
    CodecConfig,
    DataConfig,
    DemoTask,
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

__all__ = [
    "LARGEST_EPSILON",
    "LARGEST_ROUNDS",
    "ONLY_IF",
    "CodecConfig",
    "ConfigError",
    "DataConfig",
    "DemoTask",
    "EvaluationConfig",
    "FederationConfig",
    "FedlppConfig",
    "LoraConfig",
    "ModelConfig",
    "OutputConfig",
    "PrivacyConfig",
    "RunConfig",
    "Scalar",
    "Section",
    "ServerConfig",
    "StageOneConfig",
    "StrategyConfig",
    "TrainConfig",
    "allowed_values",
    "flatten",
    "key_table",
    "names_a_file",
    "nearest_keys",
    "nearest_table",
    "nest",
    "refuse_faults",
]
