"""``server.learning-rate`` means the same for every codec: how far agreeing clients move the adapter in a round."""

from pathlib import Path
from typing import Any

import pytest
import torch

from client_app import app as client_module
from common.model.adapted import AdaptedModel
from server_app.rounds.state import pack_adapter
from tests.support.tiny import Files, tiny_config, tiny_grid, tiny_strategy

STEP, ROUNDS = 0.3, 12


@pytest.mark.parametrize(
    "codec",
    [
        {"strategy.name": "lora"},
        {"strategy.name": "random-projection", "codec.size": 64},
        {"strategy.name": "random-projection", "codec.size": 1024},
        {"strategy.name": "dr-encoder", "codec.size": 256, "codec.form": "per-tensor"},
        {"strategy.name": "fedlpp", "fedlpp.bits": 3},
    ],
)
def test_clients_that_agree_move_the_adapter_by_the_step_whatever_the_codec(
    files: Files, tmp_path: Path, adapted: AdaptedModel, monkeypatch: pytest.MonkeyPatch, codec: dict[str, Any]
) -> None:
    size = adapted.layout.size
    gradient = torch.randn(size, generator=torch.Generator().manual_seed(2))
    monkeypatch.setattr(client_module, "local_update", lambda *_: gradient)
    keys = {"num-server-rounds": ROUNDS, "server.learning-rate": STEP, "privacy.clipping": "normalize"}
    config = tiny_config(files, tmp_path, keys | codec)
    strategy = tiny_strategy(config, adapted, tmp_path)
    before = strategy.state.optimizer.adapter
    strategy.start(tiny_grid(config), pack_adapter(before), num_rounds=ROUNDS, timeout=60.0)
    along = torch.dot(before - strategy.state.optimizer.adapter, gradient) / gradient.norm()
    assert float(along) == pytest.approx(STEP * ROUNDS, rel=0.1)
