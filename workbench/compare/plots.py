"""PNG plots of a comparison: scores against ε, by round and against bytes, what the codecs capture; a dot a seed."""

from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from common.counts import count
from workbench.compare.released import Row, is_above_asked, is_private, name_of, place
from workbench.compare.spec import CENTRALIZED

_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c564b")  # Okabe and Ito's
_MARKERS = "osD^vPX*"
_GREY = "#777777"


class _Score(NamedTuple):
    """A score, by what it is multiplied to be shown, and what its axis says."""

    name: str
    scale: float
    label: str


_SCORES = {
    "accuracy": _Score("accuracy", 100, "accuracy, evaluation (%)"),
    "loss": _Score("loss", 1, "held-out loss (nats per token)"),
    "retention": _Score("retention", 100, "retention: what the base model knew (%)"),
}
_DODGE, _BYTES_DODGE = 0.08, 1.08
"""Of strategies at the same place: shift between neighbors in steps of the ε axis, and factor in bytes."""

_OUTLINE = (withStroke(linewidth=3.5, foreground="white"),)  # so that a black line is seen on a bar of any color


def draw(folder: Path, found: dict[str, Any]) -> list[Path]:
    """Draw every plot of ``comparison.json`` into ``folder`` and return their paths."""
    paths = []
    for task, base in found["base"].items():
        rows = [row for row in found["rows"] if row["task"] == task]
        groups = _by_strategy(rows)
        if not groups:
            continue
        central = next((row for row in rows if row["strategy"] == CENTRALIZED), None)
        title = f"{task}: M = {found['clients']}, cohort {found['cohort']}, {count(found['rounds'], 'round')}"
        judged = _SCORES[found["judged_by"][task]]
        paths.append(_draw_utility(folder / f"utility-{task}.png", groups, base, central, title))
        if any(len(row["curve"]) > 1 for row in rows):
            paths.append(draw_curves(folder / f"curves-{task}.png", groups, judged, base, title))
        paths.append(_draw_bytes(folder / f"bytes-{task}.png", groups, base, judged, title))
        if any(row["captured_energy"] for row in rows):
            paths.append(_draw_reconstruction(folder / f"reconstruction-{task}.png", groups, title))
    return paths


def _by_strategy(rows: list[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row["strategy"] != CENTRALIZED and row["loss"]:
            groups.setdefault(row["strategy"], []).append(row)
    return {name: sorted(group, key=lambda row: float(row["epsilon_asked"])) for name, group in groups.items()}


def _kept_word(rows: list[Row]) -> list[Row]:
    return [row for row in rows if not is_above_asked(row)]


def _above_asked(rows: list[Row]) -> list[Row]:
    return [row for row in rows if is_above_asked(row)]


def _label_above(name: str, rows: list[Row]) -> str:
    """What the legend calls rows that were released at a larger ε than was asked for."""
    asked = ", ".join(f"{float(row['epsilon_asked']):g}" for row in rows)
    what = "released above the ε asked" if all(map(is_private, rows)) else "NOT PRIVATE, see table; ε asked"
    return f"{name} ({what}: {asked})"


def _draw_utility(path: Path, groups: dict[str, list[Row]], base: Row, central: Row | None, title: str) -> Path:
    known = [score for score in _SCORES.values() if any(row[score.name] for rows in groups.values() for row in rows)]
    figure, grid = plt.subplots(1, len(known), figsize=(5.5 * len(known), 4.2), squeeze=False)
    axes, epsilons = list(grid.flat), _epsilons(groups)
    for axis, (score, scale, label) in zip(axes, known, strict=True):
        for number, (name, rows) in enumerate(groups.items()):
            shift = _DODGE * (number - (len(groups) - 1) / 2)
            kept, above = _kept_word(rows), _above_asked(rows)
            if kept:
                places = [epsilons.index(place(row)) + shift for row in kept]
                _errors(axis, number, places, [row[score] for row in kept], scale, name)
                _controls(axis, number, places, kept, score, scale)
            if above:  # beside one another, since all of them may be at ∞
                places = [epsilons.index(place(row)) + shift + _DODGE * (1 + i) for i, row in enumerate(above)]
                values = [row[score] for row in above]
                _errors(axis, number, places, values, scale, _label_above(name, above), joined=False)
                _controls(axis, number, places, above, score, scale)
        if any(row["controls"] for rows in groups.values() for row in rows):
            axis.plot([], [], ls="", marker="o", mfc="none", mec=_GREY, label="control: codes zeroed")
        _references(axis, base[score], central[score] if central else None, scale)
        axis.set_xticks(range(len(epsilons)), [name_of(epsilon) for epsilon in epsilons])
        axis.set_xlabel("ε of the released model, end to end")
        axis.set_ylabel(label)
        axis.set_xlim(-0.5, len(epsilons) - 0.5)
        if scale == 100:
            axis.set_ylim(0, 103)
    return _save(figure, [axes[0]], path, title)


def draw_curves(path: Path, groups: dict[str, list[Row]], judged: "_Score", base: Row, title: str) -> Path:
    """A panel for each ε: the mean over seeds at every evaluated round, and a dot for each seed."""
    epsilons = _epsilons(groups)
    figure, axes = _panels(len(epsilons))
    for axis, epsilon in zip(axes, epsilons, strict=False):
        for number, (name, rows) in enumerate(groups.items()):
            for row in (row for row in rows if place(row) == epsilon):
                points = [point for point in row["curve"] if point[judged.name]]
                label = _label_above(name, _above_asked(rows)) if is_above_asked(row) else name
                rounds, values = [point["round"] for point in points], [point[judged.name] for point in points]
                _errors(axis, number, rounds, values, judged.scale, label)
        _references(axis, base[judged.name], None, judged.scale)
        axis.set_title(f"ε = {name_of(epsilon)}", fontsize=9)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))  # there is no round 0.5
        if judged.scale == 100:
            axis.set_ylim(0, 103)
    figure.supxlabel("round", fontsize=9)
    figure.supylabel(judged.label, fontsize=9)
    return _save(figure, axes, path, title)


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    """So many panels of equal axes, three a line; those beyond are empty."""
    columns = min(3, count)
    lines = -(-count // columns)
    figure, grid = plt.subplots(
        lines, columns, figsize=(2 + 3 * columns, 0.8 + 2.7 * lines), sharex=True, sharey=True, squeeze=False
    )
    for axis in grid.flat[count:]:
        axis.set_axis_off()
    return figure, list(grid.flat)


def _controls(axis: Axes, number: int, places: list[float], rows: list[Row], score: str, scale: float) -> None:
    """Codes zeroed as hollow marks: what the decoder does by itself."""
    marks = [
        (place, scale * row["controls"]["codes-zeroed"][score]["mean"])
        for place, row in zip(places, rows, strict=True)
        if row["controls"].get("codes-zeroed", {}).get(score)
    ]
    if marks:
        axis.plot(*zip(*marks, strict=True), ls="", marker=_MARKERS[number % 8], mfc="none", mec=_COLORS[number % 8])


def _references(axis: Axes, base: Row | None, central: Row | None, scale: float) -> None:
    for value, style, name in ((base, ":", "base model"), (central, "--", "centralized, not private")):
        if value:
            axis.axhline(scale * value["mean"], color=_GREY, lw=1, ls=style, label=name, zorder=1)


def _draw_bytes(path: Path, groups: dict[str, list[Row]], base: Row, judged: "_Score", title: str) -> Path:
    """A panel for each ε, so that strategies with codes of one size can be told apart."""
    epsilons = _epsilons(groups)
    figure, axes = _panels(len(epsilons))
    for axis, epsilon in zip(axes, epsilons, strict=False):
        taken: dict[int, int] = {}
        for number, (name, rows) in enumerate(groups.items()):
            above = _above_asked(rows)
            for row in (row for row in rows if place(row) == epsilon and row["bytes_both"]):
                column = round(row["bytes_both"] / 50)
                beside = row["bytes_both"] * _BYTES_DODGE ** taken.setdefault(column, 0)
                taken[column] += 1
                apart = is_above_asked(row)
                label = _label_above(name, above) if apart else name
                _errors(axis, number, [beside], [row[judged.name]], judged.scale, label, joined=not apart)
        _references(axis, base[judged.name], None, judged.scale)
        axis.set_title(f"ε = {name_of(epsilon)}", fontsize=9)
        axis.set_xscale("log")
        axis.margins(x=0.15)
        if judged.scale == 100:
            axis.set_ylim(0, 103)
    figure.supxlabel("bytes of one client in the whole run, both ways (equal ones are drawn side by side)", fontsize=9)
    figure.supylabel(judged.label, fontsize=9)
    return _save(figure, axes, path, title)


def _epsilons(groups: dict[str, list[Row]]) -> list[float]:
    return sorted({place(row) for rows in groups.values() for row in rows})


def _draw_reconstruction(path: Path, groups: dict[str, list[Row]], title: str) -> Path:
    """A bar for each row, named after the gradients it was measured on; k/n and the error are outlined in white."""
    known = [(number, name, row) for number, (name, rows) in enumerate(groups.items()) for row in rows]
    known = [entry for entry in known if entry[2]["captured_energy"]]
    figure, axis = plt.subplots(figsize=(8, 1.2 + 0.5 * len(known)))
    for line, (number, _, row) in enumerate(known):
        energy = row["captured_energy"]
        axis.barh(line, energy["mean"], color=_COLORS[number % 8], height=0.6)
        if energy["se"] is not None:
            bounds = [energy["mean"] - energy["se"], energy["mean"] + energy["se"]]
            axis.plot(bounds, [line, line], color="black", lw=1.5, marker="|", ms=8, path_effects=_OUTLINE)
        share = row["code_values"] / row["adapter_values"]
        axis.plot([share, share], [line - 0.4, line + 0.4], color="black", lw=1.5, path_effects=_OUTLINE)
    axis.set_yticks(range(len(known)), [_bar_label(name, row) for _, name, row in known], fontsize=8)
    axis.invert_yaxis()
    axis.axvline(0, color=_GREY, lw=0.8)
    axis.set_xlabel("captured energy of the gradients named (upright line: k/n, what a random subspace captures)")
    return _save(figure, [], path, title)


def _bar_label(name: str, row: Row) -> str:
    """Which row a bar is of, and on which gradients it was measured."""
    asked = f" (asked: {float(row['epsilon_asked']):g})" if is_above_asked(row) else ""
    return f"{name}, ε={name_of(place(row))}{asked}\non {row['captured_energy_of']}"


def _errors(
    axis: Axes, number: int, places: list[float], values: list[Row], scale: float, label: str, *, joined: bool = True
) -> None:
    """Means with standard errors, and a dot for each seed.

    Not ``joined``: half-filled marks without a line, for rows that are a case apart.
    """
    apart: dict[str, Any] = {"ls": "", "fillstyle": "left", "mfc": _COLORS[number % 8], "markerfacecoloralt": "white"}
    for where, value in zip(places, values, strict=True):
        dots = [scale * seed for seed in value["values"]]
        axis.plot([where] * len(dots), dots, ls="", marker=".", ms=4, alpha=0.45, color=_COLORS[number % 8], zorder=1)
    axis.errorbar(
        places,
        [scale * value["mean"] for value in values],
        yerr=[scale * (value["se"] or 0.0) for value in values],
        color=_COLORS[number % 8],
        marker=_MARKERS[number % 8],
        ms=5 if joined else 8,
        lw=1.4,
        capsize=3,
        label=label,
        **({} if joined else apart),
    )


def _save(figure: Figure, legend: list[Axes], path: Path, title: str) -> Path:
    """Write the figure, below it a legend of all that the axes in ``legend`` name (each name once)."""
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    if len(figure.axes) > 1:
        figure.suptitle(title, fontsize=10)
    else:
        figure.axes[0].set_title(title, fontsize=10)
    named = {label: handle for axis in legend for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    if named:
        figure.legend(
            list(named.values()),
            list(named),
            loc="upper center",
            ncols=min(4, len(named)),
            frameon=False,
            fontsize=8,
            bbox_to_anchor=(0.5, 0.0),
        )
    figure.tight_layout()
    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)
    return path
