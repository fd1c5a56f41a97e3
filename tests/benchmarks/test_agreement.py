"""The signal that unit updates have in common."""

import pytest
import torch

from benchmarks.agreement import Federation, agreement, mean_length
from benchmarks.reconstruction import RunConfig
from server_app.launcher import read_preset


@pytest.mark.parametrize(
    ("updates", "length"),
    [([[1.0, 0.0], [5.0, 0.0]], 1.0), ([[1.0, 0.0], [-3.0, 0.0]], 0.0), ([[2.0, 0.0], [0.0, 7.0]], 0.5**0.5)],
)
def test_what_counts_is_direction_alone(updates: list[list[float]], length: float) -> None:
    assert mean_length(torch.tensor(updates)) == pytest.approx(length, abs=1e-6)


def test_local_training_makes_clients_agree_more() -> None:
    federation = Federation.of(RunConfig.parse(read_preset("demo") | {"seed": 3}), 4)
    one, many = (agreement(federation, steps, 0.1, 12) for steps in (1, 5))
    assert 0.25 < one < many < 1
