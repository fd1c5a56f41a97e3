"""The charts of a run, drawn: as PNG beside report.md, as SVG in report.html."""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from server_app.results.charts import Bars, Chart, accuracy_chart, bytes_chart, epsilon_chart, loss_chart, token_chart
from server_app.results.palette import PALETTE

_FEW = 12  # points that are marked one by one
_NAME = 0.07  # height of the name of a line, as a share of the chart
_SVG_SIZE = (4.4, 2.9)  # inches: at 350 px, a phone's width, its text is as large as on the page


def draw_plots(folder: Path, rows: list[dict[str, Any]], report: dict[str, Any]) -> None:
    """Draw ``progress.png``, ``epsilon.png`` and ``bytes.png`` into ``folder``."""
    with _colors():
        _draw_progress(folder / "progress.png", rows, report)
        _draw_epsilon(folder / "epsilon.png", rows, report)
        _draw_bytes(folder / "bytes.png", report)


@dataclass(frozen=True)
class Drawn:
    """A chart as SVG; ``places`` holds for each round where it is, as a share of the width."""

    svg: str
    places: dict[int, float]


def draw_svg(chart: Chart | Bars) -> Drawn:
    """One chart for a page whose style sheet has a custom property for every color of ``PALETTE`` (``--blue``, ...).

    Two calls with the same chart give the same text, whenever and wherever.
    """
    with _colors(), mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": chart.name, "font.size": 9.5}):
        figure, axis = plt.subplots(figsize=_SVG_SIZE)
        if isinstance(chart, Bars):
            _bars(axis, chart)
        else:
            _curves(axis, chart, legend=False)
        figure.tight_layout()
        figure.canvas.draw()
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        places = _places(figure, axis, chart) if isinstance(chart, Chart) else {}
        plt.close(figure)
    return Drawn(_for_a_page(text.getvalue(), chart.name), places)


def _draw_progress(path: Path, rows: list[dict[str, Any]], report: dict[str, Any]) -> None:
    found = (loss_chart(rows), accuracy_chart(rows, report["outcome"]), token_chart(rows))
    charts = [chart for chart in found if chart]
    if not charts:
        _say_instead(path, "nothing was scored:\nno held-out examples were given")
        return
    figure, axes = plt.subplots(1, len(charts), figsize=(max(5.0, 4.5 * len(charts)), 3.4), squeeze=False)
    for axis, chart in zip(axes[0], charts, strict=True):
        _curves(axis, chart)
        axis.set_ylabel(chart.title)
    _save(figure, path)


def _draw_epsilon(path: Path, rows: list[dict[str, Any]], report: dict[str, Any]) -> None:
    chart = epsilon_chart(rows, report["privacy"])
    if chart is None:
        _say_instead(path, "epsilon is infinite:\n" + report["privacy"]["not_private_because"])
        return
    figure, axis = plt.subplots(figsize=(5, 3.4))
    _curves(axis, chart, legend=False)
    axis.set_ylabel("epsilon spent")
    axis.set_title(chart.title, fontsize=9)
    _save(figure, path)


def _draw_bytes(path: Path, report: dict[str, Any]) -> None:
    figure, axis = plt.subplots(figsize=(5.5, 2.4))
    chart = bytes_chart(report["communication"])
    _bars(axis, chart)
    axis.set_xlabel(chart.title)
    _save(figure, path)


def _say_instead(path: Path, text: str) -> None:
    figure, axis = plt.subplots(figsize=(5, 3.4))
    axis.text(0.5, 0.5, text, ha="center", wrap=True)
    axis.set_axis_off()
    _save(figure, path)


def _curves(axis: Axes, chart: Chart, *, legend: bool = True) -> None:
    for series in chart.series:
        color, few = PALETTE[series.color], len(series.x) <= _FEW
        width, marker = (1.0, None) if series.thin else (2.0, "o" if few else None)
        axis.plot(series.x, series.y, color=color, lw=width, label=plain_label(series.label), marker=marker, ms=4)
        if series.error:
            low, high = ([y + sign * e for y, e in zip(series.y, series.error, strict=True)] for sign in (-1, 1))
            axis.fill_between(series.x, low, high, color=color, alpha=0.15, lw=0)
    for _, height in chart.lines:
        axis.axhline(height, color=PALETTE["muted"], lw=0.9, ls=":")
    axis.set_xlabel("round")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))  # there is no round 0.5
    axis.set_ylim(*chart.limits)
    _name_lines(axis, chart)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(color=PALETTE["grid"], lw=0.6)
    if legend and len(chart.series) > 1:
        axis.legend(frameon=False, fontsize=8, loc="best")


def plain_label(text: str) -> str:
    """A name as it is: matplotlib reads mathematics between dollars, and leaves out of a legend what begins with _."""
    shown = text.replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def _name_lines(axis: Axes, chart: Chart) -> None:
    """Above each line, or below it where another one is so close that their names would cover each other."""
    low, high = axis.get_ylim()
    for name, height in chart.lines:
        below = any(0 < other - height < _NAME * (high - low) for _, other in chart.lines)
        axis.annotate(
            name, (1, height), (-2, -2 if below else 2), xycoords=("axes fraction", "data"),
            textcoords="offset points", color=PALETTE["muted"], ha="right", va="top" if below else "bottom", fontsize=8,
        )  # fmt: skip


def _bars(axis: Axes, chart: Bars) -> None:
    names, values, colors = zip(*chart.bars, strict=True)
    bars = axis.barh(names, values, color=[PALETTE[color] for color in colors], height=0.62)
    axis.bar_label(bars, labels=[chart.write(value) for value in values], padding=4, fontsize=8)
    axis.set_xlim(0, 1.25 * max(*values, 1.0))
    axis.xaxis.set_major_locator(MaxNLocator(3))  # "50.0 kB" is wide, and two must not touch
    axis.xaxis.set_major_formatter(lambda value, _: chart.write(value))
    axis.invert_yaxis()
    axis.spines[["top", "right"]].set_visible(False)


@contextmanager
def _colors() -> Iterator[None]:
    ink, muted = PALETTE["ink"], PALETTE["muted"]
    names = ("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor", "axes.titlecolor")
    lines = ("axes.edgecolor", "xtick.color", "ytick.color")
    colors: Any = dict.fromkeys(names, ink) | dict.fromkeys(lines, muted)
    with mpl.rc_context(colors):
        yield


def _places(figure: Figure, axis: Axes, chart: Chart) -> dict[int, float]:
    rounds: Sequence[int] = sorted({x for series in chart.series for x in series.x})
    pixels = axis.transData.transform([(number, 0.0) for number in rounds])[:, 0]
    width = float(figure.bbox.width)
    return {number: round(float(pixel) / width, 5) for number, pixel in zip(rounds, pixels, strict=True)}


def _for_a_page(svg: str, name: str) -> str:
    """Without its head and its size, with ids that are one chart's own and colors by name."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(
        r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true" focusable="false">', svg, count=1
    )
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", svg).replace("xlink:href", "href")
    for color, code in PALETTE.items():
        svg = svg.replace(code, f"var(--{color})")
    return svg.strip()


def _save(figure: Figure, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
