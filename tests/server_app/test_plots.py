"""The plots of a run."""

from dataclasses import replace
from typing import Any

import matplotlib.pyplot as plt
import pytest

from server_app.results import plots
from server_app.results.charts import (
    GROUP_COLORS,
    Bars,
    Chart,
    Series,
    accuracy_chart,
    bytes_chart,
    epsilon_chart,
    loss_chart,
    token_chart,
)
from server_app.results.palette import PALETTE

NO_EXAMPLES: dict[str, Any] = {"base": {}, "final": {}, "examples": {}}


def chart_of(rounds: list[int]) -> Chart:
    curve = Series("loss", tuple(rounds), tuple(1.0 / (number + 1) for number in rounds), "blue")
    return Chart("loss", "loss", (curve,), (("base model", 1.0),), (None, None), str)


@pytest.mark.parametrize("last", [1, 2, 3, 25, 400])
def test_rounds_are_whole_numbers(last: int) -> None:
    figure, axis = plt.subplots()
    plots._curves(axis, chart_of(list(range(last + 1))))
    figure.canvas.draw()
    assert all(float(tick).is_integer() for tick in axis.get_xticks())
    plt.close(figure)


@pytest.mark.parametrize("guessing", [1.0, 0.97, 0.5])
def test_names_of_lines_do_not_cover_each_other(guessing: float) -> None:
    figure, axis = plt.subplots(figsize=plots._SVG_SIZE)
    lines = (("base model", 1.0), *((("guessing", guessing),) if guessing < 1 else ()))
    plots._curves(axis, replace(chart_of([0, 1, 2]), lines=lines, limits=(0.0, 1.1)))
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in axis.texts]
    assert len(boxes) == len(lines)
    assert not any(one.overlaps(other) for place, one in enumerate(boxes) for other in boxes[:place])
    plt.close(figure)


def test_the_place_of_a_round_is_where_its_point_is_drawn() -> None:
    drawn = plots.draw_svg(chart_of([0, 1, 2, 10]))
    places = list(drawn.places.values())
    assert list(drawn.places) == [0, 1, 2, 10]
    assert 0 < places[0] < places[-1] < 1
    steps = [(later - first) / (number - before) for first, later, before, number in
             zip(places, places[1:], [0, 1, 2], [1, 2, 10], strict=False)]  # fmt: skip
    assert steps == pytest.approx([steps[0]] * 3, rel=1e-3), "a linear axis"


def test_a_picture_for_a_page_is_the_same_each_time_and_asks_nobody() -> None:
    one, other = (plots.draw_svg(chart_of([0, 1, 2])).svg for _ in range(2))
    assert one == other
    assert "http" not in one
    assert "var(--blue)" in one
    assert not any(code in one for code in PALETTE.values()), "dark pages have other colors"


def test_a_chart_of_one_point_and_bars_of_one_size_can_be_drawn() -> None:
    assert plots.draw_svg(chart_of([0])).svg
    assert plots.draw_svg(Bars("bytes", "bytes", (("up", 12.0, "blue"),), str)).svg


def test_guessing_is_what_the_choices_give_and_not_a_quarter() -> None:
    rows = [{"round": 0, "accuracy": 0.5}, {"round": 1, "accuracy": 0.75}]
    chart = accuracy_chart(rows, NO_EXAMPLES | {"examples": {"guessing": 0.5}})
    assert chart is not None
    assert chart.lines == (("base model", 50.0), ("guessing", 50.0))


def test_retention_and_few_groups_are_drawn_and_many_groups_are_not() -> None:
    def chart(groups: int) -> Chart:
        row = {"round": 0, "accuracy": 0.5} | {f"accuracy.g{number}": 0.5 for number in range(groups)}
        ends = {"round": 0, "retention": 1.0, "retention_error": 0.1}, {"round": 3, "retention": 0.9}
        found = accuracy_chart([row], {"base": ends[0], "final": ends[1], "examples": {}})
        assert found is not None
        return found

    assert [series.label for series in chart(2).series] == ["all", "g0", "g1", "kept of what it knew"]
    kept = chart(2).series[-1]
    assert (kept.x, kept.y, kept.error) == ((0, 3), (100.0, 90.0), ()), "an error that is not known is not drawn"
    assert len(chart(len(GROUP_COLORS) + 1).series) == 2


def test_nothing_is_drawn_of_what_there_is_not() -> None:
    rows = [{"round": 1, "epsilon": "inf"}]
    assert loss_chart(rows) is None
    assert accuracy_chart(rows, NO_EXAMPLES) is None
    assert epsilon_chart(rows, {}) is None


def test_a_score_that_is_no_number_is_no_point() -> None:
    """As of a model that diverged; JSON has no NaN, and an infinity is a text there."""
    rows = [{"round": 0, "loss": 3.5}, {"round": 1, "loss": None}, {"round": 2, "loss": "inf"}, {"round": 3, "loss": 3}]
    chart = loss_chart(rows)
    assert chart is not None
    assert (chart.series[0].x, chart.series[0].y) == ((0, 3), (3.5, 3))


def test_bytes_are_drawn_both_ways_of_the_run_and_of_plain_lora() -> None:
    own, lora = {"up": 1.0, "down": 2.0}, {"up": 300.0, "down": 400.0}
    chart = bytes_chart({"per_client_run": own, "per_client_run_plain_lora": lora})
    assert [(name, value) for name, value, _ in chart.bars] == [
        ("up, this run", 1.0), ("down, this run", 2.0), ("up, plain LoRA", 300.0), ("down, plain LoRA", 400.0)
    ]  # fmt: skip
    figure, axis = plots.plt.subplots()
    plots._bars(axis, chart)
    assert axis.get_xscale() == "linear", "a bar's length is what it stands for"
    plots.plt.close(figure)


def test_epsilon_begins_with_what_stage_one_has_spent() -> None:
    rows = [{"round": 1, "epsilon": 1.5}, {"round": 2, "epsilon": 2.0}]
    privacy = {"released_model": {"epsilon_before_round_1": 0.7, "delta": 1e-5}, "planned_epsilon": 2.5}
    chart = epsilon_chart(rows, privacy)
    assert chart is not None
    assert (chart.series[0].x, chart.series[0].y) == ((0, 1, 2), (0.7, 1.5, 2.0))
    assert chart.lines == (("planned", 2.5),)


def test_clients_own_scores_are_a_curve_with_the_noise_as_its_band() -> None:
    own = {"private_loss_error": 0.5, "private_accuracy_error": 0.1}
    rows: list[dict[str, Any]] = [
        {"round": 0, "private_loss": 3.0, "private_accuracy": 0.2, **own},
        {"round": 1},
        {"round": 2, "private_loss": 2.0, "private_accuracy": 0.3, **own},
    ]
    loss, tokens = loss_chart(rows), token_chart(rows)
    assert loss
    assert tokens
    assert (loss.series[0].x, loss.series[0].y, loss.series[0].error) == ((0, 2), (3.0, 2.0), (0.5, 0.5))
    assert tokens.series[0].y == (20.0, 30.0)
    assert tokens.lines == (("base model", 20.0),)
    both = loss_chart([{**row, "loss": 1.0} for row in rows])
    assert both
    assert [len(series.x) for series in both.series] == [3, 2]
    assert token_chart([{"round": 0, "loss": 1.0}]) is None
