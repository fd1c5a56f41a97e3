"""Puts the facts of a run (``facts``), its charts and its examples into the template of report.html."""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from server_app.privacy.account import cross_check_sentence
from server_app.results import facts
from server_app.results.charts import Bars, Chart, accuracy_chart, bytes_chart, epsilon_chart, loss_chart, token_chart
from server_app.results.html.script import SCRIPT, hash_of
from server_app.results.html.style import REPORT, THEME
from server_app.results.html.template import TEMPLATE
from server_app.results.plots import draw_svg
from server_app.results.published_names import public_name
from server_app.results.repeating import changed_settings, command
from server_app.results.units import data_size, harmless, show, show_delta


def html(report: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """The page of a run, from its ``report`` (infinities as floats) and the rows of metrics.jsonl."""
    run, outcome, privacy = report["run"], report["outcome"], report["privacy"]
    charts = [
        loss_chart(rows),
        accuracy_chart(rows, outcome),
        token_chart(rows),
        epsilon_chart(rows, privacy),
        bytes_chart(report["communication"]),
    ]
    drawn = [_drawn(chart) for chart in charts if chart is not None]
    page: str = _template().render(
        title=f"{run['strategy']} on {public_name(run['model'])} / {public_name(run['data'])}",
        subtitle=facts.extent(report),
        headline=facts.headline(privacy),
        warnings=facts.warnings(report),
        tiles=_tiles(report),
        charts=drawn,
        band=any(chart["band"] for chart in drawn),
        utility=facts.utility_table(outcome),
        scored_on=facts.scored_on(outcome),
        private=facts.private_table(outcome),
        privately_scored_on=facts.privately_scored_on(outcome) if outcome.get("private") else "",
        strategy=report["strategy"].get("summary", ""),
        samples=report["samples"],
        privacy=facts.privacy_table(privacy),
        cross_check=cross_check_sentence(privacy["released_model"]["cross_check"]),
        parties=facts.parties(report),
        assumed=facts.ASSUMED,
        bytes=facts.bytes_table(report["communication"]),
        command=command(report["settings"]),
        changed=changed_settings(report["settings"]),
        settings=report["settings"],
        versions=", ".join(f"{name} {version}" for name, version in run["versions"].items()),
        style=Markup(THEME + REPORT),  # noqa: S704 - our own text
        script=Markup(SCRIPT),  # noqa: S704 - our own text
        script_hash=hash_of(SCRIPT),
    )
    return harmless(page)  # who reads the file in a terminal


@lru_cache(maxsize=1)
def _template() -> Any:  # noqa: ANN401 - jinja2 exports no type for it
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["code"] = _code
    return environment.from_string(TEMPLATE)


def _code(text: str) -> Markup:
    """What stands in backticks, as in Markdown, becomes code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704 - escaped first


def _tiles(report: Mapping[str, Any]) -> list[dict[str, str]]:
    """The four figures that are asked for first."""
    wire, table = report["communication"], {row[0]: row[1:] for row in facts.utility_table(report["outcome"])}
    model = report["privacy"]["released_model"]
    tiles = [
        {"name": name, "value": table[key][1], "more": f"base model {table[key][0]}"}
        for key, name in (("accuracy", "held-out accuracy"), ("loss", "held-out loss"), ("retention", "kept knowledge"))
        if key in table
    ]
    own = facts.private_table(report["outcome"])
    if own and not tiles and not facts.private_is_lost(report["outcome"]):
        (_, base, value), *_ = own
        tiles.append({"name": "next token right, clients' own rows", "value": value, "more": f"base model {base}"})
    tiles.append(
        {
            "name": "ε of the released model",
            "value": show(model["epsilon"]),
            "more": f"δ = {show_delta(model['delta'])}",
        }
    )
    mine, lora = wire["per_client_run"], wire["per_client_run_plain_lora"]
    more = f"up {data_size(mine['up'])}, down {data_size(mine['down'])}; plain LoRA {data_size(lora['both'])}"
    tiles.append({"name": "one client, whole run, both ways", "value": data_size(mine["both"]), "more": more})
    return tiles


def _drawn(chart: Chart | Bars) -> dict[str, Any]:
    drawn = draw_svg(chart)
    common = {"name": chart.name, "title": chart.title, "svg": Markup(drawn.svg)}  # noqa: S704 - matplotlib escapes it
    if isinstance(chart, Bars):
        rows = [(label, chart.write(value)) for label, value, _ in chart.bars]
        summary = "; ".join(f"{label}: {size}" for label, size in rows) + "."
        return common | {
            "points": [],
            "legend": [],
            "head": ("message", "bytes"),
            "rows": rows,
            "summary": summary,
            "band": False,
        }
    rounds = sorted(drawn.places)
    values = [_values(chart, number) for number in rounds]
    labels = [f"round {number}" if number else _start(chart) for number in rounds]
    names = [series.label for series in chart.series]
    return common | {
        "points": [
            {"x": drawn.places[number], "label": label, "values": list(found.items())}
            for number, label, found in zip(rounds, labels, values, strict=True)
        ],
        "legend": [{"label": s.label, "color": s.color, "thin": s.thin} for s in chart.series],
        "head": ("round", *names),
        "rows": [
            (label, *(found.get(name, "") for name in names)) for label, found in zip(labels, values, strict=True)
        ],
        "summary": _summary(chart),
        "band": any(series.error for series in chart.series),
    }


def _start(chart: Chart) -> str:
    return "stage 1" if chart.name == "epsilon" else "base model"


def _values(chart: Chart, number: int) -> dict[str, str]:
    """What each curve has at a round, ± its standard error."""
    found = {}
    for series in chart.series:
        if number in series.x:
            place = series.x.index(number)
            error = f" ± {chart.write(series.error[place])}" if series.error else ""
            found[series.label] = chart.write(series.y[place]) + error
    return found


def _summary(chart: Chart) -> str:
    main = chart.series[0]
    lines = "".join(f"; {name} {chart.write(height)}" for name, height in chart.lines)
    return f"From {chart.write(main.y[0])} to {chart.write(main.y[-1])} in round {main.x[-1]}{lines}."
