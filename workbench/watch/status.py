"""How a run stands, from the files in its folder: there is no other source, and nothing is kept between two looks.

All of it is the server's own: it tells who was asked and who answered.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from common.config import ConfigError
from common.counts import count
from server_app.log import read_events
from server_app.results.folder import RunFolder
from server_app.results.json_lines import finite
from server_app.results.monitor import NAME as MONITOR
from server_app.results.published_names import public_name
from server_app.results.resuming import how_to_resume, read_config, why_not_resumable
from server_app.results.score_names import PRIVATE_ACCURACY, PRIVATE_LOSS

_ROUNDS, _SITES, _FAILURES, _PACE = 30, 40, 40, 10
_TROUBLE = {"node_failed", "reply_dropped", "node_silent", "run_failed", "backing_off", "waiting_for_nodes"}
_WARNINGS = ("warning", "shortage_warning")
_ENDS = {"run_ended": "finished", "run_failed": "failed", "run_stopped": "stopped"}


def status(path: Path, now: float) -> dict[str, Any]:
    """Everything that the page shows, as JSON can hold it; ``now``: Unix time, for how long ago something was."""
    folder = RunFolder(path)
    events, rows = read_events(folder.events), folder.read_metrics()
    gauges, sites = _monitored(folder)
    rounds = [row for row in rows if row["round"]]
    state = _state(folder, events)
    going = state in {"running", "waiting"}
    outcome = _outcome(path) if state == "finished" else {}
    planned = int(_configured(folder, "num-server-rounds") or 0)
    affordable = gauges.get("rounds_left", math.inf) + _is_in_round(events)
    found: dict[str, Any] = finite(
        {
            "run": {
                "name": path.name,
                "strategy": _configured(folder, "strategy", "name"),
                "model": _short(_configured(folder, "model", "name")),
                "data": _short(_configured(folder, "data", "name")),
            },
            "state": state,
            "detail": _detail(state, events, path),
            "warnings": _warnings(outcome),
            "now": _doing(events) if going else "",
            "stop_asked": folder.stop.exists() and going,
            "resume": "" if going or state == "finished" else _resume(path),
            "report": "report.html" if (path / "report.html").exists() and state == "finished" else "",
            "rounds": {"done": len(rounds), "planned": planned},
            "seconds": {
                "elapsed": (rounds[-1]["elapsed"] if rounds else 0.0) + (_since(events, now) if going else 0.0),
                "left": _left(rounds, planned, affordable) if going else None,
            },
            "epsilon": {
                "spent": gauges.get("epsilon_spent"),
                "budget": gauges.get("epsilon_budget"),
                "server": gauges.get("epsilon_server"),
            },
            "nodes": {name: gauges.get(f"nodes_{name}") for name in ("enrolled", "online", "needed")},
            "scores": _scores(_released(rows, outcome)),
            "last_rounds": [_round(row) for row in reversed(rounds[-_ROUNDS:])],
            "sites": _site_rows(sites, events, now),
            "failures": _failures(events),
        }
    )
    return found


def _outcome(path: Path) -> dict[str, Any]:
    """How a run has ended, by its report; nothing where that cannot be read."""
    try:
        report = json.loads((path / "report.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    found = report.get("outcome") if isinstance(report, dict) else {}
    return found if isinstance(found, dict) else {}


def _warnings(outcome: Mapping[str, Any]) -> list[str]:
    """Why the end of a run is none to be glad of."""
    diverged = str(outcome.get("stopped_because", ""))
    said = [diverged if diverged.startswith("diverged") else "", *(outcome.get(key) for key in _WARNINGS)]
    return [str(text) for text in said if text]


def _released(rows: Sequence[dict[str, Any]], outcome: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows up to that of the adapter which a run has kept; all while that is not known."""
    ends = [outcome.get("final"), (outcome.get("private") or {}).get("final")]
    kept = [end["round"] for end in ends if isinstance(end, dict) and "round" in end]
    return [row for row in rows if not kept or row["round"] <= max(kept)]


def newest_run(results: Path) -> Path | None:
    """The folder below ``results`` whose log was written last; ``None`` where there is none."""
    logs = [log for log in results.glob("*/events.jsonl") if not log.parent.is_symlink()]
    return max(logs, key=lambda log: log.stat().st_mtime).parent if logs else None


def _state(folder: RunFolder, events: Sequence[Mapping[str, Any]]) -> str:
    """``running``, ``waiting``, ``finished``, ``stopped``, ``failed``, or ``killed``: no end, and nobody runs it."""
    if folder.is_held():
        return "waiting" if events and events[-1]["event"] == "waiting_for_nodes" else "running"
    end = next((event["event"] for event in reversed(events) if event["event"] in _ENDS | _STARTS), "")
    return _ENDS.get(end, "killed")


_STARTS = dict.fromkeys(("run_started", "run_resumed"), "running")


def _detail(state: str, events: Sequence[Mapping[str, Any]], path: Path) -> str:
    last: Mapping[str, Any] = events[-1] if events else {}
    if state == "waiting":
        return f"{last['online']} of the {last['needed']} nodes that are needed are online; nothing is charged"
    if state == "killed":
        log = RunFolder(path).engine_log
        charged = "" if why_not_resumable(path) else "; a round that had been charged stays charged"
        return f"its process has ended without a word{charged}{f'; its log is {log}' if log.exists() else ''}"
    return str(last.get("reason", "")) if state in {"finished", "failed", "stopped"} else ""


_ASIDE = {
    "asked_with_everything",
    "metrics_not_written",
    "node_failed",
    "node_silent",
    "replies_unreadable",
    "reply_dropped",
}
"""What befalls a run within a step."""


def _doing(events: Sequence[Mapping[str, Any]]) -> str:
    """What a run does at this moment, by its last event that is a step of its own."""
    last: Mapping[str, Any] = next((event for event in reversed(events) if event["event"] not in _ASIDE), {})
    asked = count(last.get("cohort", 0), "client")
    told = {
        "run_started": "scoring the base model",
        "run_resumed": "resuming",
        "keys_started": "setting up secure aggregation: keys",
        "keys_exchanged": "setting up secure aggregation: the directory of keys",
        "keys_known": "secure aggregation is set up",
        "stage_one_started": f"stage 1: {asked} asked",
        "stage_one_answered": "making the codec",
        "codec_ready": "before round 1",
        "evaluation_started": f"private evaluation: {asked} asked",
        "round_started": f"round {last.get('round')}: {asked} asked",
        "round_repaired": f"asking once more, without {count(last.get('missing', 0), 'missing client')}",
        "nodes_are_back": "enough nodes are online again",
        "backing_off": f"pausing after failed rounds, {last.get('seconds', 0):.0f} s",
    }
    return told.get(str(last.get("event")), f"after round {last['round']}" if last.get("round") else "")


def _resume(path: Path) -> str:
    why = why_not_resumable(path)
    return f"cannot be resumed: {why}" if why else how_to_resume(path)


def _since(events: Sequence[Mapping[str, Any]], now: float) -> float:
    """Seconds since what the last round's time does not hold: since its end, or since this session began."""
    if events and events[-1]["event"] in _ENDS:  # it is being resumed, and has not said so yet
        return 0.0
    marks = [event["time"] for event in events if event["event"] in _STARTS or event["event"] == "round_finished"]
    return max(0.0, now - datetime.fromisoformat(marks[-1]).timestamp()) if marks else 0.0


def _is_in_round(events: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a round that is charged is under way."""
    marks = _STARTS.keys() | {"round_started", "round_finished"}
    return next((event["event"] for event in reversed(events) if event["event"] in marks), "") == "round_started"


def _left(rounds: Sequence[Mapping[str, Any]], planned: int, affordable: float) -> float | None:
    """Seconds that the remaining rounds take by the mean of the last ten, fewer where the budget pays for fewer."""
    if not rounds:
        return None
    recent = [row["seconds"] for row in rounds[-_PACE:]]
    elapsed = [row["elapsed"] for row in rounds[-_PACE - 1 :]]
    pace = (elapsed[-1] - elapsed[0]) / (len(elapsed) - 1) if len(elapsed) > 1 else recent[-1]
    return float(pace * max(0, min(planned - rounds[-1]["round"], affordable)))


def _scores(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    scored = [row for row in rows if "loss" in row]
    names = [name for name in ("accuracy", "loss") if scored and name in scored[0]]
    last = scored[-1] if len(scored) > 1 else {}
    found = [{"name": name, "base": scored[0][name], "last": last.get(name)} for name in names]
    own = [row for row in rows if PRIVATE_LOSS in row]
    names = [PRIVATE_ACCURACY, PRIVATE_LOSS] if own else []
    last = own[-1] if len(own) > 1 else {}
    return found + [
        {"name": name, "base": own[0][name], "last": last.get(name), "error": own[-1][f"{name}_error"]}
        for name in names
    ]


def _round(row: Mapping[str, Any]) -> dict[str, Any]:
    keys = (
        "round", "cohort", "replies", "failures", "failure", "shortage", "seconds", "epsilon", "loss", "accuracy",
        "noise_promised", "noise_present", "bytes_up", "bytes_down", PRIVATE_ACCURACY, f"{PRIVATE_ACCURACY}_error",
    )  # fmt: skip
    return {key: row.get(key) for key in keys}


def _monitored(folder: RunFolder) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """What metrics.prom says: its gauges by name, and of each site by name when it answered and what it did not."""
    gauges: dict[str, float] = {}
    sites: dict[str, dict[str, float]] = {}
    for sample in _samples(folder.path / MONITOR):
        name = sample.name.removeprefix("dr_encoder_")
        if "site" in sample.labels:
            sites.setdefault(sample.labels["site"], {})[name] = sample.value
        else:
            gauges[name] = sample.value
    return gauges, sites


def _samples(path: Path) -> list[Sample]:
    """All figures of a file of Prometheus' text; none of what is no such file."""
    try:
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        return [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    except (OSError, ValueError):
        return []


def _site_rows(
    sites: Mapping[str, Mapping[str, float]], events: Iterable[Mapping[str, Any]], now: float
) -> dict[str, Any]:
    """Sites in trouble first, then who has answered last; ``more``: how many are not listed."""
    reasons = {_who(event): event["reason"] for event in events if event["event"] == "node_failed"}
    rows = [
        {
            "name": name,
            "seconds_since_answer": now - figures["site_last_answer_timestamp_seconds"]
            if "site_last_answer_timestamp_seconds" in figures
            else None,
            "unanswered": figures.get("site_rounds_unanswered", 0.0),
            "reason": reasons.get(name, ""),
        }
        for name, figures in sites.items()
    ]
    rows.sort(key=lambda row: (-row["unanswered"], _age(row), row["name"]))
    return {"rows": rows[:_SITES], "more": max(0, len(rows) - _SITES)}


def _age(row: Mapping[str, Any]) -> float:
    since = row["seconds_since_answer"]
    return math.inf if since is None else float(since)


def _failures(events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    found = [event for event in events if event["event"] in _TROUBLE or _lost_scores(event)]
    return [
        {
            "time": event["time"],
            "round": event.get("round"),
            "what": "no private scores" if _lost_scores(event) else event["event"].replace("_", " "),
            "who": _who(event),
            "reason": _reason(event),
        }
        for event in reversed(found[-_FAILURES:])
    ]


def _lost_scores(event: Mapping[str, Any]) -> bool:
    """A private evaluation that was paid for and of which nothing could be read."""
    return event["event"] == "evaluation_answered" and bool(event.get("reason"))


def _who(event: Mapping[str, Any]) -> str:
    return str(event.get("site") or (f"node {event['node']}" if "node" in event else ""))


def _reason(event: Mapping[str, Any]) -> str:
    if event["event"] == "waiting_for_nodes":
        return f"{event['online']} of {event['needed']} needed are online"
    if event["event"] == "node_silent":
        return f"online, {count(event['rounds'], 'round')} without an answer"
    if event["event"] == "backing_off":
        return f"{event['failed_in_a_row']} failed in a row, the next in {event['seconds']:.0f} s"
    return str(event.get("reason", ""))


def _configured(folder: RunFolder, *keys: str) -> Any:  # noqa: ANN401 - any TOML value
    """A value of config.toml, ``""`` while that is not written, or cannot be read."""
    try:
        found: Any = read_config(folder.path)
    except ConfigError:
        return ""
    for key in keys:
        found = found.get(key, {}) if isinstance(found, dict) else {}
    return found if found != {} else ""


def _short(name: str) -> str:
    return public_name(name) if name else ""
