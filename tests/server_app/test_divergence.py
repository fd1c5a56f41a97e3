"""By what a round's adapter is judged, and to which one a run goes back."""

import math

import pytest
import torch
from flwr.app import MetricRecord

from server_app.rounds.divergence import VALIDATION_LOSS, Best, judge

ADAPTER = torch.ones(3)
BEST = Best(torch.zeros(3), 0.8, 2)


def scores(loss: float, **more: float) -> MetricRecord:
    return MetricRecord({"loss": loss, **more})


@pytest.mark.parametrize("best", [None, BEST])
@pytest.mark.parametrize("loss", [2.01, math.nan, math.inf])
def test_a_loss_above_the_factor_times_the_base_models_has_diverged(loss: float, best: Best | None) -> None:
    found = judge(ADAPTER, scores(loss), 3, best, 1.0, 2.0)
    assert found.best is best
    told = "is not a number" if math.isnan(loss) else f"{loss:.3g} above 2 (server.divergence-factor"
    assert f"held-out loss {told}" in found.diverged
    assert ("the adapter of round 2, whose loss 0.8 was the lowest, is kept" in found.diverged) == (best is not None)
    assert ("the adapter of the base model is kept" in found.diverged) == (best is None)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("metrics", [None, scores(0.1)])
def test_an_adapter_that_is_not_finite_has_diverged_whatever_its_loss(
    value: float, metrics: MetricRecord | None
) -> None:
    found = judge(torch.tensor([0.0, value]), metrics, 3, BEST, 1.0, 2.0)
    assert found.diverged.startswith("diverged: the adapter holds values that are not finite")
    assert found.best is BEST


def test_the_lowest_loss_is_kept_and_the_base_models_is_one_of_them() -> None:
    assert judge(ADAPTER, scores(1.0), 1, None, 1.0, 2.0).best is None, "no better than the base model"
    found = judge(ADAPTER, scores(0.9), 1, None, 1.0, 2.0)
    assert found.best == Best(ADAPTER, pytest.approx(0.9), 1)
    assert judge(ADAPTER, scores(0.9), 3, BEST, 1.0, 2.0).best is BEST
    assert judge(ADAPTER, None, 3, BEST, 1.0, 2.0).best is BEST, "not evaluated"


def test_validation_examples_judge_where_there_are_some() -> None:
    """What is scored then decides nothing of which adapter is kept."""
    assert judge(ADAPTER, scores(9.0, **{VALIDATION_LOSS: 0.5}), 3, BEST, 1.0, 2.0).best == Best(ADAPTER, 0.5, 3)
    found = judge(ADAPTER, scores(0.1, **{VALIDATION_LOSS: 9.0}), 3, BEST, 1.0, 2.0)
    assert found.diverged.startswith("diverged: validation loss 9 above 2")
