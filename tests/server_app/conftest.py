"""Fixtures of strategies that several test modules use."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.model.adapted import AdaptedModel, load_adapted_model
from server_app.strategies import base
from server_app.strategies.base import FederatedAdapter
from tests.support.downlink import Watch
from tests.support.grids import TinyGrid
from tests.support.strategy_runs import Make
from tests.support.tiny import Files, tiny_config, tiny_grid, tiny_strategy

_DRAW_COHORT = FederatedAdapter.draw_cohort


@pytest.fixture
def make(files: Files, adapted: AdaptedModel, tmp_path: Path) -> Make:
    def made(
        changes: dict[str, Any], evaluate: Any = lambda *_: None, kind: type[TinyGrid] = TinyGrid
    ) -> tuple[FederatedAdapter, TinyGrid]:
        config = tiny_config(files, tmp_path, {"strategy.name": "lora", **changes})
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        frozen = load_adapted_model(config.model, config.lora, config.seed) if config.lora.freeze_a else adapted
        return tiny_strategy(config, frozen, folder, evaluate), tiny_grid(config, kind)

    return made


@pytest.fixture
def draw(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the cohort of draw number ``t`` (0 is stage 1) be the first ``sizes[t]`` clients."""

    def drawing(*sizes: int) -> None:
        def drawn(strategy: FederatedAdapter, draw: int, rate: float, limit: int) -> list[int]:
            monkeypatch.setattr(base, "poisson_sample", lambda nodes, *_: list(nodes)[: sizes[draw]])
            return _DRAW_COHORT(strategy, draw, rate, limit)

        monkeypatch.setattr(FederatedAdapter, "draw_cohort", drawn)

    return drawing


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(monkeypatch)
