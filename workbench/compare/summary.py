"""The results of a comparison as plain JSON values: one row a cell, with spread, controls, tuning and remarks."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from common.config import Scalar
from common.counts import count
from common.privacy.delta import default_delta
from server_app.results import json_lines
from workbench.compare.folder import SCHEMA
from workbench.compare.plan import Cell
from workbench.compare.released import is_above_asked, is_private
from workbench.compare.spec import CENTRALIZED, ComparisonSpec, tuning_keys
from workbench.compare.study import Outcome, Record
from workbench.version import app_version

_SCORES = ("accuracy", "loss", "retention")
_UNNAMED = "gradients that its runs do not name"


def summarize(
    outcomes: Sequence[Outcome], spec: ComparisonSpec, command: str, planned: Sequence[Cell] = ()
) -> dict[str, Any]:
    """The document ``comparison.json`` (docs/comparison.md has its schema); ``planned``: all rows, if not all are done.

    What holds for all is that of a planned row: the one that is done may be the centralized one, of one client.
    """
    records = [record for outcome in outcomes for record in outcome.records]
    done = [outcome.cell for outcome in outcomes]
    planned = planned or done
    first = planned[-1].flat
    clients = int(first["federation.num-clients"])
    trust = trust_of(_reference_cell(planned, spec).flat)
    rows = [_row(outcome, trust) for outcome in outcomes]
    judged = {task: _judged_by([row for row in rows if row["task"] == task]) for task in spec.tasks}
    _compare_with_reference(rows, spec, judged)
    return {
        "schema": SCHEMA,
        "command": command,
        "version": app_version(),
        "code": dict(Counter(record["code"] for record in records)),
        "clients": clients,
        "cohort": round(clients * float(first["privacy.sampling-rate"])),
        "rounds": first["num-server-rounds"],
        "delta": float(first["privacy.delta"]) or default_delta(clients),
        "trust": trust,
        "seeds": spec.seeds,
        "tuning": {
            "trials_per_row": spec.trials,
            "seeds_per_trial": spec.tuning_seeds,
            "on": {task: tuning_keys(task, first) for task in spec.tasks},
            "chosen_by": _chosen_by(judged),
        },
        "reference": _reference(spec),
        "judged_by": judged,
        "base": {task: _base(outcomes, task) for task in spec.tasks},
        "rows": rows,
        "unfinished": [cell.label for cell in planned if cell not in done],
        "failed": [{"label": r["label"], "error": r["error"]} for r in records if r["status"] != "done"],
        "seconds": round(sum(r["seconds"] for r in records if r["status"] == "done")),
    }


def _judged_by(rows: Sequence[Mapping[str, Any]]) -> str:
    """The score that rows are compared by: accuracy, or where the held-out rows have no choices the loss."""
    return "loss" if rows and not any(row["accuracy"] for row in rows) else "accuracy"


def _chosen_by(judged: Mapping[str, str]) -> str:
    if "loss" in judged.values():
        return "mean loss on the public validation examples"
    return "mean accuracy on the public validation examples, then their loss"


def statistics(values: Iterable[float]) -> dict[str, Any] | None:
    """Mean, standard error (``None`` of one value) and the values; ``None`` of no values."""
    found = list(values)
    if not found:
        return None
    error = stdev(found) / math.sqrt(len(found)) if len(found) > 1 else None
    return {"mean": mean(found), "se": error, "values": found}


def trust_of(flat: Mapping[str, Scalar]) -> str:
    """The trust model that a row's ε holds in, for people."""
    trust, colluders = str(flat["privacy.trust"]), int(flat["privacy.colluders"])
    if trust not in {"distributed", "secure"} or not colluders:
        return trust
    return f"{trust}, against {count(colluders, 'colluding client')}"


def _row(outcome: Outcome, trust: str) -> dict[str, Any]:
    cell, runs = outcome.cell, outcome.runs["none"]
    done = [_report(record) for record in runs if record["status"] == "done"]
    wires = [report["communication"] for report in done]
    own = [report["strategy"] for report in done]
    first = [said.get("stage_1", {}) for said in own]
    row: dict[str, Any] = {
        "task": cell.task,
        "strategy": cell.entry.label,
        "epsilon_asked": json_lines.finite(cell.epsilon),
        "epsilon_released": _largest(done, "released_model"),
        "epsilon_server": _largest(done, "one_client_against_server"),
        "not_private_because": done[0]["privacy"]["not_private_because"] if done else "",
        "delta": done[0]["privacy"]["released_model"]["delta"] if done else None,
        "trust": trust_of(cell.flat),
        "noise_multiplier": done[0]["privacy"]["noise_multiplier"] if done else None,
        "step": outcome.search.best,
        **_scores(runs),
        "curve": _curve(done),
        "seeds": {str(r["flat"]["seed"]): _report(r)["outcome"]["final"] for r in runs if r["status"] == "done"},
        "bytes_up": _mean(wire["per_client_run"]["up"] for wire in wires),
        "bytes_down": _mean(wire["per_client_run"]["down"] for wire in wires),
        "bytes_both": _mean(wire["per_client_run"]["both"] for wire in wires),
        "stage_one_bytes_up": _mean(stage.get("bytes_up_per_client") for stage in first),
        "stage_one_bytes_down": _mean(stage.get("bytes_down_per_client") for stage in first),
        "code_values": wires[0]["code_values"] if wires else None,
        "adapter_values": wires[0]["adapter_values"] if wires else None,
        "captured_energy": statistics(
            report["codec"]["captured_energy"] for report in done if "captured_energy" in report["codec"]
        ),
        "captured_energy_of": _measured_on(done),
        "figures": _figures(own),
        "controls": {kind: _scores(records) for kind, records in outcome.runs.items() if kind != "none"},
        "tuning": _tuning(outcome),
        "runs": [record["key"] for record in runs],
    }
    return row | {"remarks": _remarks(outcome, done) + _remarks_on_privacy(row, trust)}


def _scores(records: list[Record]) -> dict[str, Any]:
    finals = [_report(record)["outcome"]["final"] for record in records if record["status"] == "done"]
    return {name: statistics(final[name] for final in finals if name in final) for name in _SCORES}


def _curve(done: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The scores of every evaluated round, over the seeds that reached it; runs of older code have none."""
    points: dict[int, list[Mapping[str, Any]]] = {}
    for report in done:
        for point in report.get("curve", []):
            points.setdefault(point["round"], []).append(point)
    return [
        {"round": number, **{name: statistics(p[name] for p in found if name in p) for name in ("accuracy", "loss")}}
        for number, found in sorted(points.items())
    ]


def _measured_on(done: list[dict[str, Any]]) -> str | None:
    """On which gradients ``captured_energy`` was measured (runs of older code do not say); ``None`` without one."""
    known = [report["strategy"] for report in done if "captured_energy" in report["codec"]]
    return " or ".join(sorted({str(own.get("captured_energy_of", _UNNAMED)) for own in known})) or None


def _figures(own: list[dict[str, Any]]) -> dict[str, Any]:
    """Whatever numbers a strategy's runs offer for comparison under ``strategy.figures``, by name."""
    names = dict.fromkeys(name for said in own for name in said.get("figures", {}))
    found = {name: [said["figures"][name] for said in own if name in said.get("figures", {})] for name in names}
    finite = {name: [value for value in values if math.isfinite(float(value))] for name, values in found.items()}
    return {name: statistics(values) for name, values in finite.items() if values}


def _tuning(outcome: Outcome) -> dict[str, Any]:
    trials = []
    for step, records in sorted(outcome.trials.items()):
        failed = sum(record["status"] != "done" for record in records)
        keys = [record["key"] for record in records]
        trials.append({"step": step, **_scores(records), "failed": failed, "runs": keys})
    return {"center": outcome.search.center, "best": outcome.search.best, "at_edge": outcome.search.at_edge,
            "trials": trials}  # fmt: skip


def _remarks(outcome: Outcome, done: list[dict[str, Any]]) -> list[str]:
    """Whatever a reader must know before believing a row."""
    runs, found = outcome.runs["none"], []
    if len(done) < len(runs):
        found.append(f"{len(runs) - len(done)} of {count(len(runs), 'run')} failed")
    diverged = sum(report["outcome"]["stopped_because"].startswith("diverged") for report in done)
    if diverged:
        judges = " or ".join(sorted({_judged_on(report) for report in done}))
        found.append(
            f"{diverged} of {count(len(runs), 'run')} diverged (judged on {judges}): the best adapter so far was kept"
        )
    worse = sum(bool(report["outcome"]["warning"]) for report in done)
    if worse:
        found.append(
            f"{worse} of {count(len(runs), 'run')} ended below the base model by accuracy or loss, and said so"
        )
    if outcome.search.at_edge:
        found.append("the best step lies at the edge of those tried")
    if len(outcome.trials) < outcome.search.trials:
        made = count(len(outcome.trials), "trial")
        found.append(f"its search ended after {made}: the next step, to three digits, was tried already")
    chosen = outcome.trials[outcome.search.best]
    best = [_report(record)["outcome"] for record in chosen if record["status"] == "done"]
    if best and len(best) < len(chosen):
        found.append(f"its step was judged by {len(best)} of {count(len(chosen), 'tuning run')}: the others failed")
    if not best:
        found.append("no trial of the tuning ended")
    elif not _beats_base(best):
        found.append("no step beat the base model in tuning")
    return found


def _beats_base(outcomes: Sequence[Mapping[str, Any]]) -> bool:
    """By mean accuracy, or where there is none by mean loss."""
    if all("accuracy" in outcome["final"] for outcome in outcomes):
        return bool(mean(o["final"]["accuracy"] for o in outcomes) > mean(o["base"]["accuracy"] for o in outcomes))
    return bool(mean(o["final"]["loss"] for o in outcomes) < mean(o["base"]["loss"] for o in outcomes))


def _remarks_on_privacy(row: dict[str, Any], trust: str) -> list[str]:
    """That the ε of a row holds in another trust model than the page says, or is not what was asked for, and why."""
    noisy = math.isfinite(float(row["epsilon_asked"]))
    found = [f"trust model {row['trust']}, not {trust}"] if noisy and row["trust"] != trust else []
    if not is_above_asked(row):
        return found
    if is_private(row):
        return [*found, "the ε of its released model is above what was asked for"]
    return [
        *found,
        f"NOT PRIVATE, though ε = {float(row['epsilon_asked']):g} was asked for: {row['not_private_because']}",
    ]


def _judged_on(report: dict[str, Any]) -> str:
    """What decided that a run diverged; runs of older code were all judged on the examples that are scored."""
    judges: str = report["outcome"].get("divergence_judged_on", "the held-out examples that are scored")
    return judges


def _compare_with_reference(rows: list[dict[str, Any]], spec: ComparisonSpec, judged: Mapping[str, str]) -> None:
    """Add to each row its paired difference, in what its task is judged by, to the reference: same task, ε and seed.

    There is none where one of the two has the ε that was asked for and the other not: that would pay for accuracy with
    privacy and call it a gain.
    """
    reference = _reference(spec)
    found = {(row["task"], row["epsilon_asked"]): row for row in rows if row["strategy"] == reference}
    for row in rows:
        other = found.get((row["task"], row["epsilon_asked"]))
        row["difference"] = None
        if other is None or row["strategy"] in (reference, CENTRALIZED):
            continue
        if row["seeds"] and other["seeds"] and is_above_asked(row) != is_above_asked(other):
            row["remarks"].append(f"no difference to {reference}: only one of the two has the ε that was asked for")
            continue
        shared = [seed for seed in row["seeds"] if seed in other["seeds"]]
        score = judged[row["task"]]
        pairs = [row["seeds"][seed][score] - other["seeds"][seed][score] for seed in shared]
        row["difference"] = statistics(pairs)


def _reference(spec: ComparisonSpec) -> str:
    return "lora" if "lora" in spec.strategies else spec.strategies[0]


def _reference_cell(cells: Sequence[Cell], spec: ComparisonSpec) -> Cell:
    return next((cell for cell in cells if cell.entry.label == _reference(spec)), cells[-1])


def _base(outcomes: Sequence[Outcome], task: str) -> dict[str, Any]:
    """Scores of the untouched model, over the seeds of its evaluation questions."""
    bases = {}
    for outcome in outcomes:
        for record in outcome.runs["none"] if outcome.cell.task == task else ():
            if record["status"] == "done":
                bases[record["flat"]["seed"]] = _report(record)["outcome"]["base"]
    return {name: statistics(base[name] for base in bases.values() if name in base) for name in _SCORES}


def _report(record: Record) -> dict[str, Any]:
    report: dict[str, Any] = record["report"]
    return report


def _largest(reports: list[dict[str, Any]], whose: str) -> float | str | None:
    values = [float(report["privacy"][whose]["epsilon"]) for report in reports]
    return json_lines.finite(max(values)) if values else None


def _mean(values: Iterable[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return mean(found) if found else None
