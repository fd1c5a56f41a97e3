"""What a run says of its noise and its code before and after stage 1, in words that hold for large models too."""

import math
import re
from typing import Any

import pytest
import torch

from common.config import RunConfig
from common.model.adapted import load_adapted_model
from server_app.results.console import ConsoleLog
from server_app.run import plan_run
from server_app.strategies import recipe_of
from server_app.strategies.expected import expectation, noise_drift
from tests.support.strategy_runs import VARIANTS
from tests.support.tiny import TINY, Files, final_adapter, run_tiny, tiny_config

NOISY: dict[str, Any] = {
    "num-server-rounds": 6,
    "privacy.epsilon": 0.0,
    "privacy.noise-multiplier": 50.0,
    "server.divergence-factor": 1e6,
}


@pytest.mark.parametrize("strategy", ["lora", "dr-encoder"])
def test_noise_moves_the_adapter_as_far_as_was_said(files: Files, tmp_path: Any, strategy: str) -> None:
    config = tiny_config(files, tmp_path, NOISY | {"strategy.name": strategy})
    adapted = load_adapted_model(config.model, config.lora, config.seed)
    recipe = recipe_of(config, adapted.layout)
    said = noise_drift(config.server, plan_run(config, recipe, 6), recipe)
    moved = float((final_adapter(run_tiny(config)) - adapted.initial).norm())
    assert moved == pytest.approx(said, rel=0.3)  # 64 values of 6 rounds: a relative spread of .04


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("kind", ["dr-encoder, trained", "fedcg", "fedcg, conv", "fedcg, private"])
def test_of_a_learned_decoder_it_is_measured_once_there_is_one(
    files: Files, tmp_path: Any, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    """Nothing else is known of it: one shortened noise a hundredfold, another made it as much longer."""
    config = tiny_config(files, tmp_path, NOISY | VARIANTS[kind])
    adapted = load_adapted_model(config.model, config.lora, config.seed)
    moved = float((final_adapter(run_tiny(config)) - adapted.initial).norm())
    output = capsys.readouterr().out
    before, _, after = output.partition("stage 1 done")
    assert "expected: noise" not in before
    (said,) = re.findall(r"expected: noise alone moves the adapter by (\S+), ", after)
    assert moved == pytest.approx(float(said), rel=0.5)


def test_the_line_says_when_it_is_too_much() -> None:
    def line(step: float, **changes: Any) -> str:
        config = RunConfig.parse(TINY | NOISY | {"server.learning-rate": step, "strategy.name": "lora"} | changes)
        adapted = load_adapted_model(config.model, config.lora, config.seed)
        recipe = recipe_of(config, adapted.layout)
        return expectation(config.server, plan_run(config, recipe, 6), recipe, 2.0)

    assert "(runs were lost above 4)" in line(0.001)
    assert "above 4 runs were lost: a smaller server.learning-rate" in line(10.0)
    assert line(1.0, **{"privacy.noise-multiplier": 0.0, "privacy.epsilon": math.inf}) == ""
    assert line(1.0, **{"server.optimizer": "adam"}) == ""


@pytest.mark.parametrize(
    ("energy", "more", "values", "words"),
    [
        (256 / 921_600, {}, 921_600, "one random direction for 3,600 values of the adapter"),
        (0.4, {}, 921_600, "it holds 40.0% of a training"),
        (0.4, {"last_loss": 0.6}, 921_600, "it holds 40.0% of a training"),
        (
            -0.177,
            {"last_loss": 1.2},
            25_600,
            "trained, it is off by 1.2 times a gradient's energy: worse than giving back nothing",
        ),
        (0.005, {"last_loss": 1.2}, 25_600, "trained, it holds 0.5% of a gradient's energy, no more than"),
        (1.0, {}, 256, "code of 256 values; every value as it is"),
    ],
)
def test_a_code_is_called_what_it_is(
    capsys: pytest.CaptureFixture[str], energy: float, more: dict[str, float], values: int, words: str
) -> None:
    ConsoleLog().prepared({"captured_energy": torch.tensor(energy), **more}, 256, values)
    assert words in capsys.readouterr().out
