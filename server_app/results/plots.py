"""PNG plots of a run: utility, privacy and bytes."""

import math
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

_FEW = 12  # points that are marked one by one
_BLUE, _ORANGE, _GREY = "#1f5fa8", "#d9731a", "#777777"


def draw_plots(folder: Path, rows: list[dict[str, Any]], report: dict[str, Any]) -> None:
    """Draw ``progress.png``, ``epsilon.png`` and ``bytes.png`` into ``folder``."""
    _draw_progress(folder / "progress.png", rows)
    _draw_epsilon(folder / "epsilon.png", rows, report)
    _draw_bytes(folder / "bytes.png", report)


def _draw_progress(path: Path, rows: list[dict[str, Any]]) -> None:
    scored = [row for row in rows if "loss" in row]
    has_accuracy = any("accuracy" in row for row in scored)
    figure, axes = plt.subplots(1, 2 if has_accuracy else 1, figsize=(9 if has_accuracy else 5, 3.4), squeeze=False)
    rounds = [row["round"] for row in scored]
    _line(axes[0, 0], rounds, [row["loss"] for row in scored], _BLUE, "round", "held-out loss (nats per token)")
    if has_accuracy:
        right = axes[0, 1]
        groups = sorted(key for key in scored[-1] if key.startswith("accuracy."))
        for group in groups:
            right.plot(rounds, [100 * row[group] for row in scored], lw=1, alpha=0.6, label=group.split(".", 1)[1])
        _line(right, rounds, [100 * row["accuracy"] for row in scored], _BLUE, "round", "held-out accuracy (%)", "all")
        right.axhline(25, color=_GREY, lw=0.8, ls=":")
        right.text(rounds[-1], 20, "guessing", color=_GREY, ha="right", fontsize=8)
        right.set_ylim(0, 102)
        right.legend(frameon=False, fontsize=8, loc="center right")
    _save(figure, path)


def _draw_epsilon(path: Path, rows: list[dict[str, Any]], report: dict[str, Any]) -> None:
    figure, axis = plt.subplots(figsize=(5, 3.4))
    spent = [row for row in rows if isinstance(row.get("epsilon"), float)]
    released = report["privacy"]["released_model"]
    if spent:
        first = released["epsilon_of_stage_1"]
        rounds = [0, 0] + [row["round"] for row in spent]
        _line(axis, rounds, [0.0, first] + [row["epsilon"] for row in spent], _ORANGE, "round", "epsilon spent")
        if first:
            axis.annotate(f"stage 1: {first:.2f}", (0, first), (6, -3), textcoords="offset points", fontsize=8)
        axis.set_ylim(0, None)
        axis.set_title(f"released model, client level, delta = {released['delta']:g}", fontsize=9)
    else:
        axis.text(0.5, 0.5, "epsilon is infinite:\n" + report["privacy"]["not_private_because"], ha="center", wrap=True)
        axis.set_axis_off()
    _save(figure, path)


def _draw_bytes(path: Path, report: dict[str, Any]) -> None:
    wire = report["communication"]
    figure, axis = plt.subplots(figsize=(5, 2.2))
    pairs = [("this run", wire["bytes_up_per_client_round"], _BLUE)]
    pairs.append(("plain LoRA", wire["bytes_up_per_client_round_plain_lora"], _GREY))
    pairs = [pair for pair in pairs if not math.isnan(pair[1])]
    bars = axis.barh([name for name, _, _ in pairs], [value for _, value, _ in pairs], color=[c for _, _, c in pairs])
    axis.bar_label(bars, labels=[f"{value:,.0f} B" for _, value, _ in pairs], padding=4, fontsize=8)
    axis.set_xscale("log")
    axis.set_xlim(100, 6 * max(value for _, value, _ in pairs))
    axis.set_xlabel("bytes up, per client and round (serialised, log scale)")
    axis.invert_yaxis()
    axis.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def _line(
    axis: Axes, x: list[int], y: list[float], color: str, x_label: str, y_label: str, label: str | None = None
) -> None:
    axis.plot(x, y, color=color, lw=2, label=label, marker="o" if len(x) <= _FEW else None, ms=4)
    axis.set_xlabel(x_label)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))  # there is no round 0.5
    axis.set_ylabel(y_label)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25)


def _save(figure: Figure, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
