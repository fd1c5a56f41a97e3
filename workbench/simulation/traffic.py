"""Flower's own count of a run's bytes beside this app's: asked for after the run, since Flower counts to its end.

The realized totals tell how large the cohorts were, or how many of them answered. So they go into server-private files:
``traffic.json``, and ``report.json`` where no guarantee rests on secret cohorts; never into ``report.md``.
"""

import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.counts import count
from server_app.errors import CommandError
from server_app.log import read_events
from server_app.privacy.ledger import Ledger
from server_app.results.folder import RunFolder
from server_app.results.strange_files import TRACKERS, strange_file
from server_app.results.units import data_size
from workbench.simulation.flower_cli import FlowerCommandError, listed_run

_BEFORE_ROUNDS = {"keys_exchanged", "stage_one_answered"}
_LOCAL = ":local:"  # a SuperLink that Flower starts by itself


class TrafficError(CommandError):
    """The folder is of no finished run, or Flower does not know the run; the message says which."""


def flower_runs(folder: RunFolder) -> list[int]:
    """Flower's ids of the run in a folder: the first, and one for each time that it was resumed."""
    told = read_events(folder.events)
    return [event["run"] for event in told if event["event"] in {"run_started", "run_resumed"} and event["run"]]


def check_deployed(folder: RunFolder, connection: str) -> None:
    """Refuse a simulation by ``dr-encoder run``, whose SuperLink has ended with it, and a connection to no SuperLink.

    Flower's command, asked for the run, would start another SuperLink, which nobody stops. And refuse a folder that
    links elsewhere: what the links name would be written over. Raises ``TrafficError``.
    """
    if why := strange_file(folder.path, others=TRACKERS):
        raise TrafficError(f"{folder.path}: {why}")
    if folder.engine_log.exists():
        raise TrafficError(
            f"{folder.path}: a simulation, whose SuperLink has ended; give a run of a deployed federation"
        )
    place = Path(os.environ.get("FLWR_HOME") or "~/.flwr").expanduser() / "config.toml"
    try:
        known = tomllib.loads(place.read_text(encoding="utf-8"))["superlink"]
        name = connection or known["default"]
        address = known.get(name, {}).get("address", "")
    except (OSError, ValueError, LookupError, AttributeError):
        name, address = connection, ""
    if not address or address == _LOCAL:
        raise TrafficError(
            f'connection "{name}": {place} names no SuperLink\'s address under it; give that of the federation'
        )


def ask_for_all(runs: Sequence[int], connection: str) -> dict[int, dict[str, int]]:
    """``network-traffic`` of each run as ``flwr ls`` tells it (bytes), without those that Flower has forgotten.

    ``TrafficError`` when it knows none.
    """
    found: dict[int, dict[str, int]] = {}
    reason = ""
    for run in runs:
        try:
            found[run] = dict(listed_run(connection, run)["network-traffic"])
        except FlowerCommandError as error:
            reason = str(error)
    if not found:
        raise TrafficError(reason)
    return found


def add_traffic(folder: RunFolder, traffic: Mapping[int, Mapping[str, int]]) -> dict[str, Any]:
    """Write ``traffic.json`` from Flower's ``network-traffic`` by run id, and ``communication.flower`` of the report.

    What an earlier call has written of other runs is kept. Returns the content of ``traffic.json``. Raises
    ``TrafficError`` when the folder has no report, that is when the run has not ended.
    """
    path = folder.path / "report.json"
    if not path.is_file():
        raise TrafficError(f"{folder.path}: no report.json; give the results folder of a run that has ended")
    report = json.loads(path.read_text(encoding="utf-8"))
    found = _count(folder, traffic)
    folder.write_json("traffic.json", found)
    if _may_be_told(folder, report):
        report["communication"]["flower"] = {key: found[key] for key in ("inbound_bytes", "outbound_bytes")}
        folder.write_json("report.json", report)
    return found


def describe(found: Mapping[str, Any]) -> str:
    """One sentence of both counts."""
    own = "".join(
        f"; Flower's own for each of {found[f'messages_{way}']:,} {what}: {data_size(found[f'flower_bytes_{way}'])}"
        for way, what in (("down", "instructions"), ("up", "replies"))
        if found[f"messages_{way}"] and not found["runs_not_counted"]
    )
    lacks = f"; of {count(len(found['runs_not_counted']), 'more run')} Flower's count is not known"
    return (
        f"{data_size(found['inbound_bytes'])} from the SuperNodes and {data_size(found['outbound_bytes'])} to them; "
        f"the records of this app alone: {data_size(found['records_up_bytes'])} up, "
        f"{data_size(found['records_down_bytes'])} down{own}{lacks if found['runs_not_counted'] else ''}"
    )


def _count(folder: RunFolder, traffic: Mapping[int, Mapping[str, int]]) -> dict[str, Any]:
    path = folder.path / "traffic.json"
    runs: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["runs"] if path.exists() else {}
    for run, bytes_of in traffic.items():
        runs[str(run)] = {way: bytes_of[f"{way}-bytes"] for way in ("inbound", "outbound")}
    up, down, answered, asked = _records(folder)
    inbound, outbound = (sum(run[way] for run in runs.values()) for way in ("inbound", "outbound"))
    return {
        "inbound_bytes": inbound,
        "outbound_bytes": outbound,
        "messages_up": answered,
        "messages_down": asked,
        "flower_bytes_up": max(0, inbound - up) / max(1, answered),
        "flower_bytes_down": max(0, outbound - down) / max(1, asked),
        "records_up_bytes": up,
        "records_down_bytes": down,
        "runs": runs,
        "runs_not_counted": [run for run in flower_runs(folder) if str(run) not in runs],
    }


def _records(folder: RunFolder) -> tuple[int, int, int, int]:
    """Serialized bytes of valid replies and of instructions, and how many they were.

    Of rounds and private evaluations the rows tell, of stage 1 and key set-ups the events.
    """
    before = [event for event in read_events(folder.events) if event["event"] in _BEFORE_ROUNDS]
    rows = [*folder.read_metrics(), *before]
    up, down, answered, asked = (
        sum(row.get(key, 0) for row in rows) for key in ("bytes_up", "bytes_down", "answered", "asked")
    )
    return up, down, answered, asked


def _may_be_told(folder: RunFolder, report: Mapping[str, Any]) -> bool:
    """Whether no guarantee rests on the sizes of the cohorts: none is given, or nothing is amplified by sampling."""
    if report["privacy"]["released_model"]["epsilon"] == "inf":
        return True
    return all(charge.sampling_rate == 1 for charge in Ledger(folder.ledger, read_only=True).charges)
