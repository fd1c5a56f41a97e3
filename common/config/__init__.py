"""The configuration of a run; see ``run`` for parsing, ``sections`` and ``strategy_sections`` for the keys."""

from common.config.effect import ONLY_IF
from common.config.fields import Section
from common.config.prompts import SELF_GENERATED, TEMPLATE, read_prompts, read_words, slots_of
from common.config.run import ConfigError, RunConfig, Scalar, allowed_values, flatten, key_table, names_a_file, nest
from common.config.sections import (
    LARGEST_EPSILON,
    CodecConfig,
    Control,
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
    HistoryConfig,
    PriorConfig,
    PublicPriorConfig,
    StageOneConfig,
)

__all__ = [
    "LARGEST_EPSILON",
    "ONLY_IF",
    "SELF_GENERATED",
    "TEMPLATE",
    "CodecConfig",
    "ConfigError",
    "Control",
    "DataConfig",
    "DemoTask",
    "EvaluationConfig",
    "FederationConfig",
    "FedlppConfig",
    "HistoryConfig",
    "LoraConfig",
    "ModelConfig",
    "OutputConfig",
    "PriorConfig",
    "PrivacyConfig",
    "PublicPriorConfig",
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
    "nest",
    "read_prompts",
    "read_words",
    "slots_of",
]
