"""The search for a step size: equal effort, and it goes where the best steps are."""

import math

import pytest

from workbench.compare.tuning import Score, StepSearch, start_step


def searched(best: float, center: float, trials: int) -> StepSearch:
    """A search whose score falls with the distance to ``best`` (in the logarithm), as accuracy does."""
    search = StepSearch(center, trials)
    for _ in range(trials):
        for step in search.next():
            search.tell(step, Score(-abs(math.log(step / best)), 0.0))
    return search


@pytest.mark.parametrize("best", [0.001, 0.02, 0.9, 1.0, 2.2, 40.0])
def test_every_search_takes_the_same_number_of_trials_wherever_the_best_is(best: float) -> None:
    assert len(searched(best, 1.0, 7).scores) == 7


@pytest.mark.parametrize("trials", [18, 30, 2000])
@pytest.mark.parametrize("center", [1.07, 1.0, 0.0123])
@pytest.mark.parametrize("best", [0.011, 1.07, 2.71828, 1e9])
def test_a_search_whose_next_step_was_tried_already_ends(trials: int, center: float, best: float) -> None:
    """Halving a gap in three digits comes back to a step that is known: nothing is left to try, whatever is asked."""
    search = searched(best, center, trials)
    assert search.next() == []
    assert 9 < len(search.scores) <= trials
    if len(search.scores) < trials:
        assert search.best == pytest.approx(best, rel=0.01)


@pytest.mark.parametrize("best", [0.0, math.inf])
def test_a_search_that_only_ever_moves_on_ends_within_the_range_of_numbers(best: float) -> None:
    search = StepSearch(1.0, 2000)
    while steps := search.next():
        assert all(0 < step < math.inf for step in steps)
        for step in steps:
            search.tell(step, Score(step if best else -step, 0.0))
    assert 600 < len(search.scores) < 2000


def test_a_search_starts_with_a_factor_three_around_the_center() -> None:
    assert StepSearch(0.6, 5).next() == [0.2, 0.6, 1.8]


@pytest.mark.parametrize(("best", "edge"), [(100.0, 81.0), (0.003, 0.0123)])
def test_the_grid_is_extended_while_the_best_is_at_its_edge(best: float, edge: float) -> None:
    search = searched(best, 1.0, 6)
    assert search.best == pytest.approx(edge, rel=0.1)
    assert search.at_edge


@pytest.mark.parametrize("best", [0.2, 0.5, 1.0, 1.4, 3.0, 8.0])
def test_a_best_step_near_the_center_is_found_within_a_factor(best: float) -> None:
    search = searched(best, 1.0, 7)
    assert abs(math.log(search.best / best)) < math.log(1.35)
    assert not search.at_edge


def test_of_equal_accuracy_the_smaller_loss_is_chosen_and_of_equals_the_smaller_step() -> None:
    search = StepSearch(1.0, 3)
    for step, loss in zip(search.next(), (0.5, 0.1, 0.1), strict=True):
        search.tell(step, Score(0.9, -loss))
    assert search.best == 1.0


def test_a_trial_that_failed_counts_and_is_never_the_best_of_others() -> None:
    search = StepSearch(1.0, 3)
    for step, score in zip(search.next(), (None, Score(0.1, -9.0), None), strict=True):
        search.tell(step, score)
    assert search.best == 1.0
    assert search.next() == []


def test_fewer_trials_than_the_first_three_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 3"):
        StepSearch(1.0, 2)


def test_the_start_rule_is_that_of_the_pilot_experiments() -> None:
    """.015/(z/K), no cap, whatever the adapter and the codec; .3 without noise."""
    assert start_step(8.0 / 20.0) == pytest.approx(0.0375, rel=1e-2)
    assert start_step(1.0 / 100.0) == 1.5
    assert start_step(0.0) == 0.3
