"""Recomputes the paper's privacy analysis (Table 3, Figure 1) and what its mechanism really gives.

``python -m benchmarks.reproduction --out docs/reproduction`` (``make reproduce``) writes every page there.
"""

import argparse
import csv
import io
import logging
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmarks.paper_pages import claimed_page, readme_page, table3_page
from benchmarks.paper_tables import SETTINGS, Setting, renyi_epsilon
from workbench.cli.command_line import main_with_plain_errors

COMMAND = "python -m benchmarks.reproduction --out docs/reproduction"
Point = tuple[str, float, int, float]
"""Setting, printed σ, step, RDP ε."""


def pages() -> dict[str, str]:
    """Every text file by its name."""
    return {
        "table3.md": table3_page(),
        "claimed.md": claimed_page(),
        "README.md": readme_page(COMMAND),
        "figure1.csv": figure_csv(figure_points()),
    }


def figure_points() -> list[Point]:
    """RDP ε after every step at the unrounded σ of each row."""
    return [
        (setting.name, row.sigma, step, renyi_epsilon(setting, setting.sigma(row), step))
        for setting in SETTINGS
        for row in setting.rows
        for step in range(1, setting.rdp_rounds + 1)
    ]


def figure_csv(points: Sequence[Point]) -> str:
    """The points as CSV, ε at four decimals."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["setting", "sigma", "step", "rdp_epsilon"])
    writer.writerows((name, f"{sigma:.2f}", step, f"{value:.4f}") for name, sigma, step, value in points)
    return text.getvalue()


def draw_figure(points: Sequence[Point]) -> Figure:
    """Figure 1: one panel a setting, one curve a σ."""
    drawing = Figure(figsize=(11, 4.8), layout="constrained")
    for axes, setting in zip(drawing.subplots(1, 2, sharey=True), SETTINGS, strict=True):
        _draw_panel(axes, setting, points)
    return drawing


def _draw_panel(axes: Axes, setting: Setting, points: Sequence[Point]) -> None:
    colors = mpl.colormaps["viridis"]
    for place, row in enumerate(setting.rows):
        own = [point for point in points if point[:2] == (setting.name, row.sigma)]
        steps, values = [point[2] for point in own], [point[3] for point in own]
        color = colors(place / len(setting.rows))
        axes.plot(steps, values, marker="o", markersize=3, color=color, label=f"{row.sigma:.2f}")
    if setting.rounds != setting.rdp_rounds:
        axes.axvline(setting.rounds, color="gray", linestyle="--", label=f"stated T = {setting.rounds}")
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_major_locator(MaxNLocator(steps=[1, 5, 10], integer=True))
    axes.set_title(f"{setting.name}: p = {setting.sampling_rate:g}, δ = 1/{setting.samples}")
    axes.set_xlabel("communication step")
    axes.set_ylabel("accumulated RDP ε (log scale)")
    axes.yaxis.set_tick_params(labelleft=True)
    axes.grid(alpha=0.3)
    axes.legend(title="noise multiplier σ", loc="center left", bbox_to_anchor=(1.0, 0.5))


def main() -> None:
    """Write all pages, the figure and its data to the folder named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/reproduction"))
    folder = parser.parse_args().out
    logging.getLogger("absl").setLevel(logging.ERROR)  # dp_accounting warns of every order that it leaves out
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text, encoding="utf-8")
    draw_figure(figure_points()).savefig(folder / "figure1.png", dpi=110)


if __name__ == "__main__":
    main_with_plain_errors(main)
