"""Where a row is drawn, and what the marks are called."""

from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from workbench.compare import plots
from workbench.compare.folder import PLOTS
from workbench.compare.plots import draw

BASE = {"accuracy": {"mean": 0.3, "se": 0.0}, "loss": {"mean": 3.0, "se": 0.0}, "retention": {"mean": 1.0, "se": 0.0}}


def row(strategy: str, asked: float | str, released: float | str, **changes: Any) -> dict[str, Any]:
    return {
        "task": "elicitation",
        "strategy": strategy,
        "epsilon_asked": asked,
        "epsilon_released": released,
        "accuracy": {"mean": 0.5, "se": 0.01, "values": [0.49, 0.51]},
        "loss": {"mean": 1.0, "se": 0.1, "values": [0.9, 1.1]},
        "bytes_both": 600.0,
        "captured_energy": None,
        "captured_energy_of": None,
        "code_values": 64,
        "adapter_values": 1000,
        "controls": {},
        "curve": [],
        "retention": None,
        **changes,
    }


def figures(
    rows: list[dict[str, Any]], folder: Path, monkeypatch: pytest.MonkeyPatch, judged: str = "accuracy"
) -> dict[str, Figure]:
    """What is drawn of ``rows``, by the name of its file."""
    drawn: dict[str, Figure] = {}
    written = Figure.savefig

    def keep(figure: Figure, path: Path, **options: Any) -> None:
        drawn[path.name] = figure
        written(figure, path, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    found = {
        "base": {"elicitation": BASE},
        "judged_by": {"elicitation": judged},
        "rows": rows,
        "clients": 20,
        "cohort": 20,
        "rounds": 40,
    }
    assert {path.name for path in draw(folder, found)} == set(drawn)
    assert set(drawn) <= set(PLOTS)
    return drawn


def places(axis: Axes) -> dict[str, list[str]]:
    """By its name in the legend, the ticks nearest to each mark."""
    ticks = [label.get_text() for label in axis.get_xticklabels()]
    found = {}
    for container in axis.containers:
        line = container[0]  # type: ignore[index]
        found[str(container.get_label())] = [ticks[round(float(x))] for x in line.get_xdata()]
    return found


CLEAR = [row("fedcg", 4.0, "inf"), row("fedcg", 8.0, "inf"), row("fedcg", "inf", "inf"), row("lora", 4.0, 3.99)]


def test_rows_whose_released_epsilon_is_infinite_are_drawn_at_infinity_under_a_name_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    axis = figures(CLEAR, tmp_path, monkeypatch)["utility-elicitation.png"].axes[0]
    assert places(axis) == {
        "fedcg": ["∞"],
        "fedcg (NOT PRIVATE, see table; ε asked: 4, 8)": ["∞", "∞"],
        "lora": ["4"],
    }
    marks = {str(container.get_label()): container[0] for container in axis.containers}  # type: ignore[index]
    apart = marks["fedcg (NOT PRIVATE, see table; ε asked: 4, 8)"]
    assert (apart.get_fillstyle(), apart.get_linestyle()) == ("left", "None")
    assert marks["fedcg"].get_fillstyle() == "full"
    assert len({round(float(x), 6) for x in [*apart.get_xdata(), *marks["fedcg"].get_xdata()]}) == 3, "side by side"


def test_the_place_of_infinity_is_added_where_nobody_asked_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = figures([row("fedcg", 4.0, "inf"), row("lora", 4.0, 3.99)], tmp_path, monkeypatch)
    assert places(drawn["utility-elicitation.png"].axes[0]) == {
        "fedcg (NOT PRIVATE, see table; ε asked: 4)": ["∞"],
        "lora": ["4"],
    }
    panels = {
        axis.get_title(): [str(container.get_label()) for container in axis.containers]
        for axis in drawn["bytes-elicitation.png"].axes
    }
    assert panels == {"ε = 4": ["lora"], "ε = ∞": ["fedcg (NOT PRIVATE, see table; ε asked: 4)"]}
    legend = [text.get_text() for text in drawn["bytes-elicitation.png"].legends[0].get_texts()]
    assert sorted(legend) == ["base model", "fedcg (NOT PRIVATE, see table; ε asked: 4)", "lora"], "of all panels"


def test_a_row_that_was_released_above_the_epsilon_asked_is_drawn_at_what_was_released(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = figures([row("lora", 2.0, 13.37), row("other", 2.0, 1.999)], tmp_path, monkeypatch)
    assert places(drawn["utility-elicitation.png"].axes[0]) == {
        "lora (released above the ε asked: 2)": ["13.4"],
        "other": ["2"],
    }


def test_every_bar_names_its_gradients_and_its_lines_are_seen_on_any_color(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    energy = {"captured_energy": {"mean": 0.5, "se": 0.1}}
    rows = [
        row("dr-encoder", 4.0, 3.99, **energy, captured_energy_of="synthetic gradients"),
        row("fedcg", 4.0, "inf", **energy, captured_energy_of="the real gradients it was trained on"),
    ]
    axis = figures(rows, tmp_path, monkeypatch)["reconstruction-elicitation.png"].axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == [
        "dr-encoder, ε=4\non synthetic gradients",
        "fedcg, ε=∞ (asked: 4)\non the real gradients it was trained on",
    ]
    assert "synthetic" not in axis.get_xlabel()
    lines = [line for line in axis.lines if line.get_path_effects()]
    ends = sorted({tuple(round(float(x), 3) for x in line.get_xdata()) for line in lines})
    assert ends == [(0.064, 0.064), (0.4, 0.6)]  # k/n, and both ends of the error
    assert all(line.get_zorder() > max(bar.get_zorder() for bar in axis.patches) for line in lines)
    assert {to_rgb(line.get_color()) for line in lines} == {(0.0, 0.0, 0.0)}
    assert plots._OUTLINE[0]._gc["foreground"] == "white"


def _dots(axis: Axes, label: str) -> int:
    """Small marks of a strategy's color: one for each seed."""
    color = next(to_rgb(box[0].get_color()) for box in axis.containers if box.get_label() == label)  # type: ignore[index]
    return sum(
        len(line.get_xdata()) for line in axis.lines if line.get_marker() == "." and to_rgb(line.get_color()) == color
    )


def test_every_seed_is_a_dot_and_retention_has_a_panel_where_it_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = {"mean": 0.9, "se": 0.05, "values": [0.85, 0.95]}
    two, one = (
        figures([row("lora", 4.0, 4.0, **more)], tmp_path, monkeypatch)["utility-elicitation.png"].axes
        for more in ({}, {"retention": kept})
    )
    assert [len(two), len(one)] == [2, 3]
    assert one[2].get_ylabel().startswith("retention")
    assert [_dots(axis, "lora") for axis in one] == [2, 2, 2]


def test_a_curve_has_a_mark_for_each_evaluated_round_and_its_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score = {"mean": 2.0, "se": 0.1, "values": [1.9, 2.0, 2.1]}
    curve = [{"round": number, "accuracy": None, "loss": score} for number in (0, 10, 20)]
    rows = [row("lora", 4.0, 4.0, curve=curve, accuracy=None)]
    drawn = figures(rows, tmp_path, monkeypatch, "loss")
    (axis,) = drawn["curves-elicitation.png"].axes
    assert list(axis.containers[0][0].get_xdata()) == [0, 10, 20]  # type: ignore[index]
    assert _dots(axis, "lora") == 9
    assert len(drawn["utility-elicitation.png"].axes) == 1, "there is no accuracy to draw"


def test_no_tick_is_between_two_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    score = {"mean": 0.5, "se": 0.1, "values": [0.4, 0.6]}
    rows = [row("lora", 4.0, 4.0, curve=[{"round": number, "accuracy": score} for number in (0, 1, 2)])]
    (axis,) = figures(rows, tmp_path, monkeypatch)["curves-elicitation.png"].axes
    assert [tick for tick in axis.get_xticks() if tick != round(tick)] == []
