"""PNG plots of a comparison: accuracy and loss against ε, accuracy against bytes, what the codecs capture."""

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from compare.plan import CENTRALISED

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c564b")  # Okabe and Ito's
_MARKERS = "osD^vPX*"
_GREY = "#777777"
_DODGE, _BYTES_DODGE = 0.08, 1.08
"""Of strategies at the same place: shift between neighbours in steps of the ε axis, and factor in bytes."""

Row = dict[str, Any]


def draw(folder: Path, found: dict[str, Any]) -> list[Path]:
    """Draw every plot of ``comparison.json`` into ``folder`` and return their paths."""
    paths = []
    for task, base in found["base"].items():
        rows = [row for row in found["rows"] if row["task"] == task]
        groups = _by_strategy(rows)
        if not groups:
            continue
        central = next((row for row in rows if row["strategy"] == CENTRALISED), None)
        title = f"{task}: M = {found['clients']}, cohort {found['cohort']}, {found['rounds']} rounds"
        paths.append(_draw_utility(folder / f"utility-{task}.png", groups, base, central, title))
        paths.append(_draw_bytes(folder / f"bytes-{task}.png", groups, base, title))
        if any(row["captured_energy"] for row in rows):
            paths.append(_draw_reconstruction(folder / f"reconstruction-{task}.png", groups, title))
    return paths


def _by_strategy(rows: list[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row["strategy"] != CENTRALISED and row["accuracy"]:
            groups.setdefault(row["strategy"], []).append(row)
    return {name: sorted(group, key=lambda row: float(row["epsilon_asked"])) for name, group in groups.items()}


def _draw_utility(path: Path, groups: dict[str, list[Row]], base: Row, central: Row | None, title: str) -> Path:
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2))
    epsilons = _epsilons(groups)
    for axis, score, scale, label in (
        (axes[0], "accuracy", 100, "accuracy, evaluation (%)"),
        (axes[1], "loss", 1, "held-out loss (nats per token)"),
    ):
        for number, (name, rows) in enumerate(groups.items()):
            shift = _DODGE * (number - (len(groups) - 1) / 2)
            places = [epsilons.index(float(row["epsilon_asked"])) + shift for row in rows]
            _errors(axis, number, places, [row[score] for row in rows], scale, name)
            _controls(axis, number, places, rows, score, scale)
        if any(row["controls"] for rows in groups.values() for row in rows):
            axis.plot([], [], ls="", marker="o", mfc="none", mec=_GREY, label="control: codes zeroed")
        _references(axis, base[score], central[score] if central else None, scale)
        axis.set_xticks(range(len(epsilons)), [_name(epsilon) for epsilon in epsilons])
        axis.set_xlabel("ε of the released model, end to end")
        axis.set_ylabel(label)
        axis.set_xlim(-0.5, len(epsilons) - 0.5)
    axes[0].set_ylim(0, 103)
    return _save(figure, axes[0], path, title)


def _controls(axis: Axes, number: int, places: list[float], rows: list[Row], score: str, scale: float) -> None:
    """Codes zeroed as hollow marks: what the decoder does by itself."""
    marks = [
        (place, scale * row["controls"]["codes-zeroed"][score]["mean"])
        for place, row in zip(places, rows, strict=True)
        if row["controls"].get("codes-zeroed", {}).get(score)
    ]
    if marks:
        axis.plot(*zip(*marks, strict=True), ls="", marker=_MARKERS[number % 8], mfc="none", mec=_COLOURS[number % 8])


def _references(axis: Axes, base: Row | None, central: Row | None, scale: float) -> None:
    for value, style, name in ((base, ":", "base model"), (central, "--", "centralised, not private")):
        if value:
            axis.axhline(scale * value["mean"], color=_GREY, lw=1, ls=style, label=name, zorder=1)


def _draw_bytes(path: Path, groups: dict[str, list[Row]], base: Row, title: str) -> Path:
    """A panel for each ε, so that strategies with codes of one size can be told apart."""
    epsilons = _epsilons(groups)
    columns = min(3, len(epsilons))
    lines = -(-len(epsilons) // columns)
    figure, grid = plt.subplots(
        lines, columns, figsize=(2 + 3 * columns, 0.8 + 2.7 * lines), sharex=True, sharey=True, squeeze=False
    )
    for axis, epsilon in zip(grid.flat, epsilons, strict=False):
        taken: dict[int, int] = {}
        for number, (name, rows) in enumerate(groups.items()):
            for row in (row for row in rows if float(row["epsilon_asked"]) == epsilon and row["bytes_up"]):
                column = round(row["bytes_up"] / 50)
                place = row["bytes_up"] * _BYTES_DODGE ** taken.setdefault(column, 0)
                taken[column] += 1
                _errors(axis, number, [place], [row["accuracy"]], 100, name)
        _references(axis, base["accuracy"], None, 100)
        axis.set_title(f"ε = {_name(epsilon)}", fontsize=9)
        axis.set_xscale("log")
        axis.margins(x=0.15)
        axis.set_ylim(0, 103)
    for axis in grid.flat[len(epsilons) :]:
        axis.set_axis_off()
    figure.supxlabel("bytes up, per client and round (serialised; equal ones are drawn side by side)", fontsize=9)
    figure.supylabel("accuracy, evaluation (%)", fontsize=9)
    return _save(figure, grid[0, 0], path, title)


def _epsilons(groups: dict[str, list[Row]]) -> list[float]:
    return sorted({float(row["epsilon_asked"]) for rows in groups.values() for row in rows})


def _name(epsilon: float) -> str:
    return "∞" if epsilon == float("inf") else f"{epsilon:g}"


def _draw_reconstruction(path: Path, groups: dict[str, list[Row]], title: str) -> Path:
    known = [(number, name, row) for number, (name, rows) in enumerate(groups.items()) for row in rows]
    known = [entry for entry in known if entry[2]["captured_energy"]]
    figure, axis = plt.subplots(figsize=(7.5, 1.2 + 0.4 * len(known)))
    for place, (number, _, row) in enumerate(known):
        energy = row["captured_energy"]
        axis.barh(place, energy["mean"], xerr=energy["se"], color=_COLOURS[number % 8], height=0.6, capsize=3)
        share = row["code_values"] / row["adapter_values"]
        axis.plot([share, share], [place - 0.4, place + 0.4], color="black", lw=1.5)
    axis.set_yticks(
        range(len(known)), [f"{name}, ε={_name(float(row['epsilon_asked']))}" for _, name, row in known], fontsize=8
    )
    axis.invert_yaxis()
    axis.axvline(0, color=_GREY, lw=0.8)
    axis.set_xlabel("captured energy of synthetic gradients (line: k/n, what a random subspace captures)")
    return _save(figure, None, path, title)


def _errors(axis: Axes, number: int, places: list[float], values: list[Row], scale: float, label: str) -> None:
    axis.errorbar(
        places,
        [scale * value["mean"] for value in values],
        yerr=[scale * (value["se"] or 0.0) for value in values],
        color=_COLOURS[number % 8],
        marker=_MARKERS[number % 8],
        ms=5,
        lw=1.4,
        capsize=3,
        label=label,
    )


def _save(figure: Figure, legend: Axes | None, path: Path, title: str) -> Path:
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    if len(figure.axes) > 1:
        figure.suptitle(title, fontsize=10)
    else:
        figure.axes[0].set_title(title, fontsize=10)
    if legend is not None:
        handles, labels = legend.get_legend_handles_labels()
        columns = min(4, len(labels))
        figure.legend(
            handles, labels, loc="upper center", ncols=columns, frameon=False, fontsize=8, bbox_to_anchor=(0.5, 0.0)
        )
    figure.tight_layout()
    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)
    return path
