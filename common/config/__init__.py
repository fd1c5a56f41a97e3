"""The configuration of a run; see ``run`` for parsing, ``sections`` for the keys."""

from common.config.run import ConfigError, RunConfig, Scalar, flatten, key_table, nest
from common.config.sections import (
    CodecConfig,
    DataConfig,
    EvaluationConfig,
    FederationConfig,
    HistoryConfig,
    LoraConfig,
    ModelConfig,
    OutputConfig,
    PriorConfig,
    PrivacyConfig,
    Section,
    ServerConfig,
    StatisticsConfig,
    StrategyConfig,
    TrainConfig,
)

__all__ = [
    "CodecConfig",
    "ConfigError",
    "DataConfig",
    "EvaluationConfig",
    "FederationConfig",
    "HistoryConfig",
    "LoraConfig",
    "ModelConfig",
    "OutputConfig",
    "PriorConfig",
    "PrivacyConfig",
    "RunConfig",
    "Scalar",
    "Section",
    "ServerConfig",
    "StatisticsConfig",
    "StrategyConfig",
    "TrainConfig",
    "flatten",
    "key_table",
    "nest",
]
