"""Algorithm 2 through Flower's messages is Algorithm 2 in a plain loop."""

from pathlib import Path
from typing import Any

import pytest
import torch

from common.models import AdaptedModel
from tests import reference
from tests.tiny import Files, final_adapter, run_tiny, tiny_config

# Of the clients' gradients some are longer than the bound and some are not, so that clipping decides.
CASES: dict[str, dict[str, Any]] = {
    "lora-clip": {"strategy.name": "lora", "privacy.clipping": "clip", "privacy.clip-norm": 0.25},
    "lora-normalize": {"strategy.name": "lora"},
    "dr-encoder-clip": {"privacy.clipping": "clip", "privacy.clip-norm": 0.03},
    "dr-encoder-normalize": {"server.learning-rate": 2.0},
}


@pytest.mark.parametrize("name", CASES)
def test_three_rounds_through_flower_equal_the_plain_loop(
    files: Files, adapted: AdaptedModel, tmp_path: Path, name: str
) -> None:
    config = tiny_config(files, tmp_path, {"federation.num-clients": 12, **CASES[name]})
    expected = reference.train(config, adapted)
    found = final_adapter(run_tiny(config))
    assert (expected - adapted.initial).norm() > 0.05
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["lora-clip", "dr-encoder-clip"])
def test_the_bound_clips_some_clients_and_not_all(
    files: Files, adapted: AdaptedModel, tmp_path: Path, name: str
) -> None:
    config = tiny_config(files, tmp_path, {"federation.num-clients": 12, **CASES[name]})
    codec = reference.codec_of_round(config, adapted, 0)
    norms = [
        codec.encode(
            reference.lora_gradient(
                adapted,
                adapted.initial,
                reference.private_tokens(config.data, adapted.tokenizer, client, 12, config.seed),
            )
        ).norm()
        for client in range(12)
    ]
    assert 3 <= sum(float(norm) > config.privacy.clip_norm for norm in norms) <= 9, norms
