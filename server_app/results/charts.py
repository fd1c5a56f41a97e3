"""The curves of a run as values, before anybody draws them: for the pictures of report.md and for report.html alike."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from server_app.results.score_names import PRIVATE_ACCURACY, PRIVATE_LOSS, error_of, part_of
from server_app.results.units import data_size, show, show_delta

_MOST_GROUPS = 6  # more lines in one picture tell nobody anything; the table has all of them
_OWN = "clients' own rows, ± noise"
GROUP_COLORS = ("teal", "purple", "olive", "red", "brown", "pink")


@dataclass(frozen=True)
class Series:
    """A curve: ``y`` over rounds ``x``, and where there is one the standard ``error`` of each point."""

    label: str
    x: tuple[int, ...]
    y: tuple[float, ...]
    color: str
    thin: bool = False
    error: tuple[float, ...] = ()


@dataclass(frozen=True)
class Chart:
    """Curves over rounds.

    Attributes:
        name: of the file, or the part of a page.
        title: what is drawn, with its unit.
        series: the curves, the main one first.
        lines: what they are to be compared with: a name and a height each.
        limits: of the y axis; ``None`` is left open.
        write: a value in words.

    """

    name: str
    title: str
    series: tuple[Series, ...]
    lines: tuple[tuple[str, float], ...]
    limits: tuple[float | None, float | None]
    write: Callable[[float], str]


@dataclass(frozen=True)
class Bars:
    """Sizes side by side, on a logarithmic scale: a label, a value and a color each."""

    name: str
    title: str
    bars: tuple[tuple[str, float, str], ...]
    write: Callable[[float], str]


def loss_chart(rows: Sequence[Mapping[str, Any]]) -> Chart | None:
    """Held-out loss of public examples and of clients' own, and the base model's; ``None`` where there is none."""
    kinds = (("loss", "held-out", "blue"), (PRIVATE_LOSS, _OWN, "purple"))
    series = tuple(_series(name, scored, of, color) for of, name, color in kinds if (scored := _with(rows, of)))
    if not series:
        return None
    lines = (("base model", series[0].y[0]),)
    return Chart("loss", "held-out loss (nats per token)", series, lines, (None, None), _plain)


def accuracy_chart(rows: Sequence[Mapping[str, Any]], outcome: Mapping[str, Any]) -> Chart | None:
    """Held-out accuracy, by group where there are few, retention, the base model's and guessing; in percent."""
    scored = _with(rows, "accuracy")
    if not scored:
        return None
    groups = sorted(key for key in scored[-1] if key.startswith("accuracy."))
    shown = groups if 1 < len(groups) <= _MOST_GROUPS else []
    series = [_series("all", scored, "accuracy", "blue", 100.0)]
    series += [
        _series(str(part_of(group)[1]), scored, group, color, 100.0, thin=True)
        for group, color in zip(shown, GROUP_COLORS, strict=False)
    ]
    kept = [row for row in (outcome["base"], outcome["final"]) if math.isfinite(row.get("retention") or math.nan)]
    if kept:
        series.append(_series("kept of what it knew", kept, "retention", "orange", 100.0))
    lines = [("base model", 100 * scored[0]["accuracy"])]
    if outcome["examples"].get("guessing"):
        lines.append(("guessing", 100 * outcome["examples"]["guessing"]))
    return Chart("accuracy", "held-out accuracy (%)", tuple(series), tuple(lines), (0.0, 102.0), _percent)


def token_chart(rows: Sequence[Mapping[str, Any]]) -> Chart | None:
    """How often the model ranks the clients' own next token first; in percent. ``None`` where that was not asked."""
    scored = _with(rows, PRIVATE_ACCURACY)
    if not scored:
        return None
    series = (_series(_OWN, scored, PRIVATE_ACCURACY, "purple", 100.0),)
    lines = (("base model", series[0].y[0]),)
    return Chart("tokens", "next token right, clients' own rows (%)", series, lines, (None, None), _percent)


def epsilon_chart(rows: Sequence[Mapping[str, Any]], privacy: Mapping[str, Any]) -> Chart | None:
    """ε of the released model as it was spent, at 0 what came before round 1, and as planned; ``None`` where inf."""
    spent = [row for row in rows if isinstance(row.get("epsilon"), float)]
    if not spent:
        return None
    released = privacy["released_model"]
    series = Series(
        "spent",
        (0, *(row["round"] for row in spent)),
        (released["epsilon_before_round_1"], *(row["epsilon"] for row in spent)),
        "orange",
    )
    lines = (("planned", privacy["planned_epsilon"]),) if math.isfinite(privacy["planned_epsilon"]) else ()
    title = f"ε of the released model, client level, δ = {show_delta(released['delta'])}"
    highest = max(*series.y, *(height for _, height in lines))
    return Chart("epsilon", title, (series,), lines, (0.0, 1.12 * highest), show)


def bytes_chart(wire: Mapping[str, Any]) -> Bars:
    """What one client sends and receives in a whole run, beside plain LoRA under the same noise."""
    own, lora = wire["per_client_run"], wire["per_client_run_plain_lora"]
    bars = (
        ("up, this run", own["up"], "blue"),
        ("down, this run", own["down"], "teal"),
        ("up, plain LoRA", lora["up"], "muted"),
        ("down, plain LoRA", lora["down"], "muted"),
    )
    return Bars("bytes", "bytes of one client in the whole run, expected (serialized)", bars, data_size)


def _with(rows: Sequence[Mapping[str, Any]], key: str) -> list[Mapping[str, Any]]:
    """The rows that have a number there; that of a model that diverged is none."""
    return [row for row in rows if isinstance(row.get(key), int | float) and math.isfinite(row[key])]


def _series(
    label: str, rows: Sequence[Mapping[str, Any]], key: str, color: str, factor: float = 1.0, *, thin: bool = False
) -> Series:
    rows = _with(rows, key)
    errors = [error_of(key, row) for row in rows]
    known = all(math.isfinite(error) for error in errors)
    return Series(
        label,
        tuple(row["round"] for row in rows),
        tuple(factor * row[key] for row in rows),
        color,
        thin,
        tuple(factor * error for error in errors) if known else (),
    )


def _plain(value: float) -> str:
    return f"{value:.3f}"


def _percent(value: float) -> str:
    return f"{value:.1f} %"
