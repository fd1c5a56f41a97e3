"""``comparison.json`` as a page for people."""

from typing import Any

from common.counts import count
from server_app.results.units import show, show_delta
from workbench.compare.spec import CENTRALIZED

_HEAD = ("strategy", "ε asked", "accuracy", "difference", "loss", "retention", "ε released", "ε server",
         "bytes both ways", "up", "down", "of which stage 1 up", "step", "controls, accuracy", "remarks")  # fmt: skip


def markdown(found: dict[str, Any]) -> str:
    """The page ``comparison.md``: a table a task, then the tuning and what failed."""
    tuning = found["tuning"]
    lines = [
        "# Comparison",
        "",
        f"M = {count(found['clients'], 'client')}, expected cohort {found['cohort']}, "
        f"{count(found['rounds'], 'round')}, δ = {show_delta(found['delta'])}, "
        f"trust model {found['trust']}{_but(found)}; "
        f"{count(found['seeds'], 'paired seed')}; "
        f"mean ± standard error. Steps: {_at_most(found)}{tuning['trials_per_row']} trials a row, each on "
        f"{count(tuning['seeds_per_trial'], 'seed')}, chosen by {tuning['chosen_by']}; never on the evaluation "
        "examples.",
        "",
        f"```\n{found['command']}\n```",
        "",
        f"Version {found['version']}, code {_codes(found['code'])}. The ε of a row is that of one run: the tuning is "
        "not in it (it stands for a tuning on public data). Bytes are of one client in the whole run, stage 1 "
        "included, expected over the cohorts; beside them what a client sends that stage 1 asks.",
    ]
    if found["unfinished"]:
        lines.append(f"\n**Not all is done: {', '.join(found['unfinished'])}. The same command goes on.**")
    if len(found["code"]) > 1:
        lines.append("\n**Some runs were made with other code than others: see `code` in comparison.json.**")
    for task, base in found["base"].items():
        rows, judged = [row for row in found["rows"] if row["task"] == task], found["judged_by"][task]
        lines += ["", f"## {task}", "", *_table(rows, base, found["reference"], judged)]
        lines += ["", f"![scores against epsilon](utility-{task}.png)"]
        if any(len(row["curve"]) > 1 for row in rows):
            lines += ["", f"![{judged} by round](curves-{task}.png)"]
        lines += ["", f"![{judged} against bytes](bytes-{task}.png)"]
        if any(row["captured_energy"] for row in rows):
            lines += ["", f"![what the codecs capture](reconstruction-{task}.png)"]
        lines += _figures(rows)
    lines += ["", "## Tuning", "", *_tuning(found["rows"])]
    if found["failed"]:
        lines += ["", "## Failed runs", "", *(f"- {one['label']}: {one['error']}" for one in found["failed"])]
    return "\n".join([*lines, ""])


def _table(rows: list[dict[str, Any]], base: dict[str, Any], reference: str, judged: str) -> list[str]:
    against = f"against {reference}" + (" (loss)" if judged == "loss" else "")
    head = [against if name == "difference" else name for name in _HEAD]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    scores = {name: percent(base[name]) for name in ("accuracy", "retention")}
    cells = ["base", "–", scores["accuracy"], "", plain(base["loss"]), scores["retention"], *[""] * (len(_HEAD) - 6)]
    lines.append(f"| {' | '.join(cells)} |")
    for row in rows:
        central = row["strategy"] == CENTRALIZED
        cells = [
            f"`{row['strategy']}`",
            "–" if central else _asked(row),
            percent(row["accuracy"]),
            points(row["difference"]) if judged == "accuracy" else signed(row["difference"]),
            plain(row["loss"]),
            percent(row["retention"]),
            "–" if central else _epsilon(row["epsilon_released"]),
            "–" if central else _epsilon(row["epsilon_server"]),
            "–" if central else _bytes(row["bytes_both"]),
            "–" if central else _bytes(row["bytes_up"]),
            "–" if central else _bytes(row["bytes_down"]),
            "–" if central else _bytes(row["stage_one_bytes_up"]),
            f"{row['step']:g}",
            "; ".join(f"{kind} {percent(scores['accuracy'])}" for kind, scores in row["controls"].items()) or "–",
            "; ".join(row["remarks"]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _at_most(found: dict[str, Any]) -> str:
    """Whether rows say under their remarks that they made fewer trials."""
    fewer = any(len(row["tuning"]["trials"]) < found["tuning"]["trials_per_row"] for row in found["rows"])
    return "at most " if fewer else ""


def _but(found: dict[str, Any]) -> str:
    """Whether rows say under their remarks that they have another trust model."""
    others = any(row["trust"] != found["trust"] for row in found["rows"] if row["strategy"] != CENTRALIZED)
    return " (unless a row's remarks name another)" if others else ""


def _figures(rows: list[dict[str, Any]]) -> list[str]:
    """What strategies report of themselves beside the scores, if one does: a column for each number."""
    names = list(dict.fromkeys(name for row in rows for name in row["figures"]))
    if not names:
        return []
    lines = ["", "What strategies report of themselves (shares from 0 to 1 where a share is meant):", ""]
    lines += [f"| strategy | ε asked | {' | '.join(names)} |", "|" + "---|" * (2 + len(names))]
    for row in (row for row in rows if row["figures"]):
        cells = " | ".join(plain(row["figures"].get(name)) for name in names)
        lines.append(f"| `{row['strategy']}` | {_asked(row)} | {cells} |")
    return lines


def _tuning(rows: list[dict[str, Any]]) -> list[str]:
    head = "step: validation accuracy, else loss; retention (the chosen one in bold, the start rule's marked *)"
    lines = [f"| task | strategy | ε | {head} |"]
    lines.append("|---|---|---|---|")
    for row in rows:
        tuning = row["tuning"]
        cells = []
        for trial in tuning["trials"]:
            mark = "*" if trial["step"] == tuning["center"] else ""
            failed = f" ({trial['failed']} of {count(len(trial['runs']), 'run')} failed)" if trial["failed"] else ""
            kept = f"; {percent(trial['retention'], spread=False)}" if trial["retention"] else ""
            by_loss = trial["loss"] and not trial["accuracy"]
            scored = f"loss {plain(trial['loss'])}" if by_loss else percent(trial["accuracy"], spread=False)
            text = f"{trial['step']:g}{mark}: {scored}{kept}{failed}"
            cells.append(f"**{text}**" if trial["step"] == tuning["best"] else text)
        lines.append(f"| {row['task']} | `{row['strategy']}` | {_asked(row)} | {', '.join(cells)} |")
    return lines


def _asked(row: dict[str, Any]) -> str:
    return f"{float(row['epsilon_asked']):g}"


def percent(value: dict[str, Any] | None, *, spread: bool = True) -> str:
    """A share as per cent, ± its standard error."""
    if value is None:
        return "–"
    error = f" ± {100 * value['se']:.1f}" if spread and value["se"] is not None else ""
    return f"{100 * value['mean']:.1f}{error} %"


def points(value: dict[str, Any] | None) -> str:
    """A difference of shares in points, ± its standard error."""
    if value is None:
        return ""
    error = f" ± {100 * value['se']:.1f}" if value["se"] is not None else ""
    return f"{100 * value['mean']:+.1f}{error}"


def signed(value: dict[str, Any] | None) -> str:
    """A difference of losses (below 0: better), ± its standard error."""
    if value is None:
        return ""
    return f"{value['mean']:+.3f}" + (f" ± {value['se']:.3f}" if value["se"] is not None else "")


def plain(value: dict[str, Any] | None) -> str:
    """A number ± its standard error."""
    if value is None:
        return "–"
    return f"{value['mean']:.3f}" + (f" ± {value['se']:.3f}" if value["se"] is not None else "")


def _epsilon(value: float | str | None) -> str:
    return "–" if value is None else show(value)


def _bytes(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _codes(codes: dict[str, int]) -> str:
    return ", ".join(f"{code} ({count(runs, 'run')})" for code, runs in codes.items())
