"""What must hold of the strategy of docs/extending.md: test_extending.py runs this in a copy of the app that has it."""

from pathlib import Path

import pytest
import torch

from common.codecs import build_encoder, codec_from_state
from common.config import ConfigError
from common.model.adapted import AdaptedModel
from server_app.strategies import STRATEGIES
from tests.support.tiny import Files, final_adapter, run_tiny, tiny_config, vectors


@pytest.mark.parametrize("noise", [False, True])
def test_it_runs_to_its_end(files: Files, adapted: AdaptedModel, tmp_path: Path, noise: bool) -> None:
    private = {"privacy.epsilon": 0.0, "privacy.noise-multiplier": 1.0} if noise else {}
    changes = {"strategy.name": "thinned-lora", "num-server-rounds": 2, **private}
    moved = final_adapter(run_tiny(tiny_config(files, tmp_path, changes))) != adapted.initial
    assert moved[::48].any(), "64 of 3,072 values"
    assert moved.sum() == moved[::48].sum()


@pytest.mark.parametrize("size", [0, 3_073])
def test_a_size_that_no_codec_can_have_is_refused(
    adapted: AdaptedModel, tmp_path: Path, files: Files, size: int
) -> None:
    config = tiny_config(files, tmp_path, {"strategy.name": "thinned-lora", "codec.size": size})
    with pytest.raises(ConfigError, match=f"codec.size = {size}: give 1 to 3072"):
        STRATEGIES["thinned-lora"].recipe_for(config, adapted.layout)


def test_its_codec_keeps_the_contract(adapted: AdaptedModel, tmp_path: Path, files: Files) -> None:
    codec = STRATEGIES["thinned-lora"].recipe_for(tiny_config(files, tmp_path), adapted.layout).codec
    assert codec is not None
    x, code = vectors(1, codec.dim, 1)[0], vectors(1, codec.size, 2)[0]
    assert torch.equal(build_encoder(codec.spec(), adapted.layout).encode(x), codec.encode(x))
    assert torch.equal(codec_from_state(codec.state(), adapted.layout).decode(code), codec.decode(code))
    assert torch.equal(codec.encode(codec.decode(code)), code)
