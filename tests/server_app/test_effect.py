"""A code of LoRA factors whose others are zero changes no model, and that is said before a round is paid for."""

from typing import Any

import pytest
import torch

from common.adapter import Layout
from common.codecs import allocation
from common.codecs.identity import IdentityCodec
from common.codecs.linear import LinearCodec
from common.codecs.statistics import GradientStatistics
from server_app.strategies.effect import without_effect
from tests.support.strategy_runs import NOISY
from tests.support.tiny import Files, run_tiny, tiny_config

LAYOUT = Layout.of({f"{place}.lora_{side}.default.weight": (2, 8) for place in "qv" for side in "AB"})
FRESH = torch.cat([torch.ones(16), torch.zeros(16)] * 2)  # A drawn, B zero, for q and v


def optimum(deviations: list[float], size: int, layout: Layout = LAYOUT) -> LinearCodec:
    std = torch.tensor(deviations)
    return LinearCodec.of_form(
        layout, size, 1, form="optimum", statistics=GradientStatistics(torch.zeros_like(std), std)
    )


@pytest.mark.parametrize(
    ("deviations", "size", "idle"),
    [
        ([9.0, 1.0, 8.0, 1.0], 20, True),  # both A
        ([9.0, 1.0, 8.0, 1.0], 33, False),  # and one B
        ([1.0, 9.0, 1.0, 1.0], 8, False),  # a B, whose A is drawn
    ],
)
def test_a_code_that_is_all_of_a_is_told(deviations: list[float], size: int, idle: bool) -> None:
    assert ("CHANGES NO MODEL" in without_effect(optimum(deviations, size), LAYOUT, FRESH)) is idle


def test_what_is_frozen_counts_as_there() -> None:
    only_b = Layout.of({"q.lora_B.default.weight": (2, 8)})
    assert not without_effect(optimum([1.0], 4, only_b), only_b, torch.zeros(16))
    assert not without_effect(IdentityCodec(LAYOUT), LAYOUT, FRESH)
    assert not without_effect(optimum([9.0, 1.0, 8.0, 1.0], 20), LAYOUT, torch.ones(64))


def test_such_a_run_says_so_before_its_rounds_and_at_its_end(
    files: Files, tmp_path: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ended as a plain success, with its whole budget spent."""

    chosen = allocation.optimum

    def all_of_a(layout: Layout, _: object, size: int) -> tuple[Any, ...]:
        std = torch.tensor([float("lora_A" in piece.name) for piece in layout.tensors])
        return chosen(layout, GradientStatistics(torch.zeros_like(std), std), size)

    monkeypatch.setitem(allocation.FORMS, "optimum", all_of_a)
    changes = {"strategy.name": "dr-encoder", "codec.form": "optimum", "num-server-rounds": 2}
    run_tiny(tiny_config(files, tmp_path, NOISY | changes))
    said = capsys.readouterr().out
    assert said.index("THE CODE CHANGES NO MODEL") < said.index("round   1")
    assert "WARNING: ended with the very loss of the base model: this adapter changes nothing" in said
