"""Scores as a code: its norm whatever they are, and the way back."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.privacy.mechanism import ReleaseTerms, combine, release
from common.privacy.noise import RandomSource
from common.score_code import LOSS_BOUND, decode_scores, encode_scores, score_errors

ANY = st.floats(allow_nan=False) | st.just(math.inf)


@given(loss=ANY, accuracy=st.floats(0, 1))
def test_whatever_a_client_holds_its_code_is_in_the_unit_ball(loss: float, accuracy: float) -> None:
    assert float(encode_scores(loss, accuracy).double().norm()) <= 1 + 1e-6


@given(loss=st.floats(0, LOSS_BOUND), accuracy=st.floats(0, 1))
def test_scores_come_back(loss: float, accuracy: float) -> None:
    assert decode_scores(encode_scores(loss, accuracy)) == pytest.approx((loss, accuracy), abs=1e-5)


@given(scores=st.lists(st.tuples(ANY, st.floats(0, 1)), min_size=1, max_size=5), other=st.tuples(ANY, st.floats(0, 1)))
def test_one_client_more_moves_the_sum_by_no_more_than_the_clip_norm(
    scores: list[tuple[float, float]], other: tuple[float, float]
) -> None:
    """Neighbors under zero-out: all rows of a client replaced by nothing, or by rows of any other scores."""
    terms = ReleaseTerms(2, 1.0, 1.0, "central", 8, normalize=False)  # no noise of a client's own

    def total(held: list[tuple[float, float]]) -> torch.Tensor:
        sent = [release(encode_scores(*each), terms, RandomSource.insecure(n)) for n, each in enumerate(held)]
        return combine(sent, terms, RandomSource.insecure(99)).double()

    step = total([*scores, other]) - total(scores)
    assert float(step.norm()) <= 1 + 1e-6


def test_a_score_that_is_none_is_sent_as_nothing() -> None:
    terms = ReleaseTerms(2, 1.0, 1.0, "central", 8, normalize=False)
    assert release(encode_scores(math.nan, math.nan), terms, RandomSource.insecure(1)).tolist() == [0, 0]
    assert decode_scores(torch.zeros(2)) == (LOSS_BOUND / 2, 0.5)


def test_the_error_is_what_a_step_of_the_mean_code_does_to_either_score() -> None:
    base, moved = decode_scores(torch.zeros(2)), decode_scores(torch.full((2,), 0.01))
    assert score_errors(0.01) == pytest.approx([after - before for after, before in zip(moved, base, strict=True)])
