"""Algorithm 2 through Flower's messages is Algorithm 2 in a plain loop."""

from pathlib import Path
from typing import Any

import pytest
import torch

from common.data import private_tokens
from common.model.adapted import AdaptedModel
from tests.support import reference
from tests.support.tiny import Files, final_adapter, run_tiny, tiny_config

CLIENTS = 12


@pytest.mark.parametrize("clipping", ["clip", "normalize"])
@pytest.mark.parametrize("name", ["lora", "dr-encoder"])
def test_three_rounds_through_flower_equal_the_plain_loop(
    files: Files, adapted: AdaptedModel, tmp_path: Path, name: str, clipping: str
) -> None:
    """The bound is the median norm of round 1, so it decides for some clients and not for others."""
    changes: dict[str, Any] = {
        "federation.num-clients": CLIENTS,
        "strategy.name": name,
        "privacy.clipping": clipping,
        "server.learning-rate": 3.0,
    }
    config = tiny_config(files, tmp_path, changes)
    codec = reference.codec_of_round(config, adapted, 0)
    norms = []
    for client in range(CLIENTS):
        tokens = private_tokens(config.data, adapted.tokenizer, client, CLIENTS, config.seed)
        norms.append(codec.encode(reference.lora_gradient(adapted, adapted.initial, tokens)).norm())
    median = round(float(torch.stack(norms).median()), 6)
    config = tiny_config(files, tmp_path, changes | {"privacy.clip-norm": median})
    expected = reference.train(config, adapted)
    found = final_adapter(run_tiny(config))
    assert (expected - adapted.initial).norm() > 0.03
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
