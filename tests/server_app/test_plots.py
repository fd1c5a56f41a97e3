"""The plots of a run."""

import matplotlib.pyplot as plt
import pytest

from server_app.results import plots


@pytest.mark.parametrize("last", [1, 2, 3, 25, 400])
def test_rounds_are_whole_numbers(last: int) -> None:
    figure, axis = plt.subplots()
    rounds = list(range(last + 1))
    plots._line(axis, rounds, [1.0 / (number + 1) for number in rounds], "black", "round", "loss")
    figure.canvas.draw()
    assert all(float(tick).is_integer() for tick in axis.get_xticks())
    plt.close(figure)
