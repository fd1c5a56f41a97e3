"""What is planned of bytes against what a run serializes, both ways, for every strategy under every trust model."""

import json
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message

from common.wire.records import serialized_bytes
from server_app.results.run_bytes import run_bytes
from server_app.strategies import STRATEGIES
from server_app.strategies.two_stage import TwoStage
from tests.support.strategy_runs import VARIANTS, Make
from tests.support.tiny import CLIENTS, Files, run_tiny, start, tiny_config

pytestmark = pytest.mark.usefixtures("few_steps")
ROUNDS = 4
TRUST: dict[str, dict[str, Any]] = {
    "central": {},
    "distributed": {},
    "local": {},
    "secure": {"privacy.dropouts": 0},
}
NOISY = {
    "privacy.epsilon": 0.0,
    "privacy.noise-multiplier": 2.0,
    "num-server-rounds": ROUNDS,
    "data.evaluation": "",
}
CASES = [
    *((f"{name}, {trust}", {"strategy.name": name, "privacy.trust": trust} | TRUST[trust])
      for name in STRATEGIES for trust in TRUST),
    *((name, VARIANTS[name]) for name in VARIANTS if name not in STRATEGIES),
]  # fmt: skip


def _bytes(messages: list[Message]) -> int:
    return sum(serialized_bytes(message.content) for message in messages)


@pytest.mark.parametrize("changes", [changes for _, changes in CASES], ids=[name for name, _ in CASES])
def test_what_is_planned_is_what_a_run_serializes(make: Make, changes: dict[str, Any]) -> None:
    """Everybody answers every round; a plan cannot know what noise makes of the sums' sizes, the report is exact."""
    strategy, grid = make(NOISY | changes)
    planned = run_bytes(strategy.config, strategy.recipe, strategy.account.plan, ROUNDS)
    start(strategy, grid)
    assert not [message for message in grid.answered if message.has_error()]
    assert planned.up * CLIENTS == pytest.approx(_bytes(grid.answered), rel=0.02)
    assert planned.down * CLIENTS == pytest.approx(_bytes(grid.sent), rel=0.02)
    encoder, released = strategy.codec.redraw(0).spec(), strategy.state.sums
    told = run_bytes(
        strategy.config, strategy.recipe, strategy.account.plan, ROUNDS, encoder=encoder, released=released
    )
    assert (told.up * CLIENTS, told.down * CLIENTS) == (_bytes(grid.answered), _bytes(grid.sent))
    if isinstance(strategy, TwoStage):
        stage = strategy.measure().details()["stage_1"]
        first = grid.sent[-(ROUNDS + 1) * CLIENTS :][:CLIENTS]  # behind the key set-up
        assert stage["bytes_down_per_client"] * CLIENTS == _bytes(first)


def test_a_report_counts_the_encoder_that_stage_1_led_to(files: Files, tmp_path: Path) -> None:
    """Of this form statistics leave out tensors, which no plan can know: it was 43 % off."""
    form = {"codec.form": "variance-proportional", "codec.size": 16, "codec.refresh-every": 0}
    only_b = {"stage-one.private": False, "stage-one.steps": 1}  # at the start a gradient of A is zero
    folder = run_tiny(tiny_config(files, tmp_path, NOISY | form | only_b))
    told = json.loads((folder.path / "report.json").read_text(encoding="utf-8"))["communication"]
    assert told["per_client_run"]["down"] == pytest.approx(told["per_client_run_as_released"]["down"], rel=0.02)
