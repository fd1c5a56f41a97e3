"""``report.md``: a run's report as a page for people, to be published (what must not stand in it: ``report``)."""

import math
from typing import Any

from server_app.privacy.account import cross_check_sentence
from server_app.results.facts import (
    bytes_table,
    extent,
    headline,
    private_table,
    privately_scored_on,
    scored_on,
    utility_table,
    warnings,
)
from server_app.results.markdown import plain, table_row
from server_app.results.published_names import public_name
from server_app.results.units import show, show_delta


def markdown(report: dict[str, Any]) -> str:
    """The report as a page for people."""
    run, outcome, privacy, wire = (report[key] for key in ("run", "outcome", "privacy", "communication"))
    lines = [
        plain(f"# {run['strategy']} on {public_name(run['model'])} / {public_name(run['data'])}"),
        "",
        extent(report),
        "",
        headline(privacy),
        *_loud(*warnings(report)),
        "",
        "## Utility (held-out examples that you named public; their losses are published)",
        "",
        *utility_rows(outcome),
        "",
        *private_rows(outcome),
        *_of_the_strategy(report["strategy"]),
        "![loss and accuracy](progress.png)",
        "",
        "## Privacy",
        "",
        *(_guarantee(privacy[key]) for key in ("released_model", "one_client_against_server")),
        f"- Cross-check of the released model's ε: {cross_check_sentence(privacy['released_model']['cross_check'])}.",
        _terms(privacy),
    ]
    if privacy["not_private_because"]:
        lines.append(f"\nNot private end to end, because {privacy['not_private_because']}.")
    lines += [
        "",
        "![epsilon](epsilon.png)",
        "",
        "## Bytes on the wire (serialized records)",
        "",
        f"- of one client in the whole run, expected ({_of_whom(wire['cover'])}):",
        "",
        "| | this run | plain LoRA, the same noise |",
        "|---|---|---|",
        *map(table_row, bytes_table(wire)),
        "",
        "![bytes](bytes.png)",
        "",
    ]
    return "\n".join(lines)


def _of_whom(cover: bool) -> str:
    asked = "cover traffic included: every client is asked in every round"
    return asked if cover else "the realized bytes would tell the cohorts"


def _terms(privacy: dict[str, Any]) -> str:
    noise = privacy["noise_source"]
    if not privacy["noise_multiplier"]:
        return f"- Trust model: {privacy['trust']}. Noise: {noise}."
    one = privacy["one_client_against_server"]["noise_multiplier_of_a_message"]
    first = privacy["statistics_noise_multiplier"]
    return (
        f"- Trust model: {privacy['trust']}. Noise multiplier (std over the clip norm {privacy['clip_norm']:g}): "
        f"{privacy['noise_multiplier']:.4f} in a round{f', {first:.4f} in stage 1' if first else ''}; one message of a "
        f"round carries {one:.4f} by itself. Noise: {noise}. Of delta, {privacy['delta_set_aside']:.2g} is set aside "
        "for approximations."
    )


def _loud(*sentences: str) -> list[str]:
    return [line for sentence in sentences if sentence for line in ("", f"**{sentence}**")]


def utility_rows(outcome: dict[str, Any]) -> list[str]:
    """A Markdown table of the scores before and after, or a sentence that there are none."""
    found = utility_table(outcome)
    if not found:
        return ["No evaluation data was configured (`data.evaluation`)."]
    rows = ["| | base model | after fine-tuning |", "|---|---|---|"]
    return [*rows, *map(table_row, found), "", plain(scored_on(outcome))]


def private_rows(outcome: dict[str, Any]) -> list[str]:
    """A section with the clients' own scores; nothing where they were not asked for."""
    found = private_table(outcome)
    if not found:
        return []
    rows = ["| | base model | after fine-tuning |", "|---|---|---|", *map(table_row, found)]
    return ["### On clients' own rows", "", *rows, "", privately_scored_on(outcome), ""]


def _of_the_strategy(details: dict[str, Any]) -> list[str]:
    """What the strategy itself has to say, if anything."""
    return [f"Strategy: {details['summary']}.", ""] if details.get("summary") else []


def _guarantee(figure: dict[str, Any]) -> str:
    what = f"of {figure['of']}, against {figure['against']}"
    if math.isinf(figure["epsilon"]):
        because = figure.get("not_claimed_because")
        return f"- **ε = inf** (nothing is claimed{f': {because}' if because else ''}) {what}."
    return (
        f"- **ε = {show(figure['epsilon'])}** at δ = {show_delta(figure['delta'])} (assumes: "
        f"{figure['assumes']}), {what}. Unit: {figure['unit']}. "
        f"Adjacency: {figure['adjacency']}. Accountant: {figure['accountant']}."
    )
