"""The report says of which gradients its captured energy is."""

from typing import Any

import pytest

from tests.support.strategy_runs import NOISY, Make
from tests.support.tiny import start

FEDCG = {"strategy.name": "fedcg", "stage-one.private": False, "num-server-rounds": 1}


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize(
    ("changes", "measured_on"),
    [
        ({"strategy.name": "dr-encoder", "num-server-rounds": 1}, "synthetic gradients"),
        (FEDCG, "the real gradients it was trained on"),
        ({**FEDCG, **NOISY}, "the real gradients it was trained on"),  # noise in the rounds alone
        ({**FEDCG, "stage-one.private": True}, "the real gradients it was trained on"),  # no noise at all
        ({**FEDCG, **NOISY, "stage-one.private": True}, "the noisy mean gradients it was trained on"),
    ],
)
def test_captured_energy_is_named_after_what_it_was_measured_on(
    make: Make, changes: dict[str, Any], measured_on: str
) -> None:
    strategy, grid = make(changes)
    start(strategy, grid)
    assert "captured_energy" in strategy.state.prior
    assert strategy.measure().details()["captured_energy_of"] == measured_on
