"""The strategy that docs/extending.md shows runs as it stands."""

import re
from pathlib import Path

import pytest
import torch

from common.codecs import base, build_encoder, codec_from_state
from common.models import AdaptedModel
from server_app.strategies import STRATEGIES
from tests.tiny import Files, final_adapter, run_tiny, tiny_config, vectors

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"


@pytest.fixture
def block(monkeypatch: pytest.MonkeyPatch) -> str:
    """Execute the page's only block; what it registers is forgotten after the test."""
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    monkeypatch.setattr(base, "_LOADERS", dict(base._LOADERS))
    monkeypatch.setitem(STRATEGIES, "thinned-lora", STRATEGIES["lora"])
    exec(compile(code, str(PAGE), "exec"), {"__name__": "extending"})  # noqa: S102
    return str(code)


def test_the_page_stays_short(block: str) -> None:
    assert len([line for line in block.splitlines() if line.strip()]) < 40


@pytest.mark.parametrize("noise", [False, True])
def test_the_strategy_of_the_page_runs_to_its_end(
    block: str, files: Files, adapted: AdaptedModel, tmp_path: Path, noise: bool
) -> None:
    private = {"privacy.epsilon": 0.0, "privacy.noise-multiplier": 1.0} if noise else {}
    changes = {"strategy.name": "thinned-lora", "num-server-rounds": 2, **private}
    moved = final_adapter(run_tiny(tiny_config(files, tmp_path, changes))) != adapted.initial
    assert moved[::48].any(), "64 of 3,072 values"
    assert moved.sum() == moved[::48].sum()


def test_its_codec_keeps_the_contract(block: str, adapted: AdaptedModel, tmp_path: Path, files: Files) -> None:
    config = tiny_config(files, tmp_path)
    strategy = object.__new__(STRATEGIES["thinned-lora"])
    strategy.config, strategy.layout = config, adapted.layout
    codec = strategy.prepare(None)  # type: ignore[arg-type]
    x, code = vectors(1, codec.dim, 1)[0], vectors(1, codec.size, 2)[0]
    assert torch.equal(build_encoder(codec.spec(), adapted.layout).encode(x), codec.encode(x))
    assert torch.equal(codec_from_state(codec.state(), adapted.layout).decode(code), codec.decode(code))
    assert torch.equal(codec.encode(codec.decode(code)), code)
