"""What is told of a local model before anything is started."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from transformers import Gemma3Config

from common.config import ConfigError, RunConfig
from common.model.causal import check_architecture
from tests.support.benchmark_files import save_model
from workbench.planning.local_model import check_model


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hidden_size": "32"}, "'hidden_size' expected int, got str"),
        ({"num_attention_heads": 3}, "not a multiple of the number of attention heads (3)"),
        ({"hidden_act": "foo"}, "its config.json makes no model (KeyError: it lacks 'foo')"),
        ({"vocab_size": -1}, "its config.json makes no model (AssertionError: "),
        ({"attn_implementation": "org/kernels"}, 'attention code of a hub, attn_implementation = "org/kernels"'),
        ({"attn_implementation": "flex_attention"}, "it is compiled anew for each length of a text; leave it out"),
        ({"_attn_implementation": "flex_attention"}, "it is compiled anew for each length of a text; leave it out"),
    ],
)
def test_a_config_that_makes_no_model_is_refused_in_a_line(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    file = Path(save_model(tmp_path / "model")) / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | change), encoding="utf-8")
    with pytest.raises(ConfigError, match=re.escape(said)):
        check_model(RunConfig.parse({"model.name": str(file.parent), "data.name": "x"}))


@pytest.mark.parametrize("code", ["flex_attention", "org/kernels"])
def test_attention_of_a_part_of_a_model_is_looked_at_too(code: str) -> None:
    """A dict says what each part of a model of text and pictures takes, and the top one says nothing of it."""
    asked = {"text_config": code, "vision_config": "eager", "": "eager"}
    with pytest.raises(ConfigError, match="attn_implementation"):
        check_architecture(Gemma3Config(text_config={}, vision_config={}, attn_implementation=asked), "mine")
