"""Architectures that are no causal language model are refused in a line."""

import pytest
from transformers import CLIPConfig, PreTrainedConfig, T5Config

from common.config import ConfigError, LoraConfig
from workbench.planning.architectures import build_shape


@pytest.mark.parametrize("config", [T5Config(), CLIPConfig()], ids=lambda config: config.model_type)
def test_they_are_refused_with_their_type(config: PreTrainedConfig) -> None:
    config.name_or_path = "/models/mine"
    with pytest.raises(ConfigError, match="no causal language model; give a decoder") as refused:
        build_shape(config, LoraConfig())
    assert str(refused.value).startswith(
        f'model.name = "/models/mine": its config.json is of type "{config.model_type}"'
    )
    assert len(str(refused.value)) < 250
