"""``results/<run>/metrics.prom``: how a run stands, as text that Prometheus reads (node_exporter's textfile collector).

Written anew before every charge, which it counts, after stage 1 and every round, while nodes are waited for, and at
the end. Server-private (0600) like the files that it is made of: it tells who was asked and who answered. Rules and a
board for it: docker/monitoring.
"""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from server_app.log import log_event
from server_app.privacy.account import PrivacyAccount
from server_app.results.folder import RunFolder
from server_app.rounds.availability import Attendance

NAME = "metrics.prom"


class Monitor(Collector):
    """The figures of one run.

    Args:
        folder: the run's folder; ``metrics.jsonl`` in it is what is counted, earlier sessions included.
        rounds: rounds that are planned.
        account: what is spent of which budget.
        attendance: who is there.

    """

    def __init__(self, folder: RunFolder, rounds: int, account: PrivacyAccount, attendance: Attendance) -> None:
        self._folder = folder
        self._rounds = rounds
        self._account = account
        self._attendance = attendance
        self._state = "running"
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def write(self, state: str = "") -> None:
        """Write the file; ``state``: "completed", "failed" or "stopped" at the end. A full disk ends no run here.

        What could not be written anew is removed: its epsilon would be below what is spent.
        """
        self._state = state or self._state
        path = self._folder.path / NAME
        fresh = path.with_suffix(".new")
        try:
            _write_private(fresh, generate_latest(self._registry))
            fresh.replace(path)
        except OSError as error:
            log_event("metrics_not_written", level=logging.WARNING, reason=str(error))
            with suppress(OSError):
                path.unlink(missing_ok=True)
                fresh.unlink(missing_ok=True)

    def describe(self) -> list[Metric]:
        """Nothing: what there is depends on the run, and registering must not read its files."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Every figure, labeled with the run's name, so that files of several runs can be collected together."""
        told = self._folder.read_metrics()
        rows = [row for row in told if row["round"]]
        last: dict[str, Any] = rows[-1] if rows else {}
        yield self._counter("rounds", "Rounds that have ended", len(rows))
        yield self._counter("rounds_short", "Rounds with too few replies", sum(1 for row in rows if row["shortage"]))
        for key, meaning in {
            "replies": "Replies that counted",
            "failures": "Nodes that were asked and whose reply did not count",
        }.items():
            yield self._counter(key, meaning, sum(row[key] for row in rows))
        for key, meaning in {
            "bytes_up": "Serialised bytes of replies that counted, private evaluations included",
            "bytes_down": "Serialised bytes of instructions, private evaluations included",
        }.items():
            yield self._counter(key, meaning, sum(row.get(key, 0) for row in told))
        yield self._gauge("rounds_planned", "Rounds that are planned", self._rounds)
        yield self._gauge("rounds_left", "Rounds that can still be charged within the plan", self._account.rounds_left)
        yield self._gauge("failed_in_a_row", "Last rounds in a row with too few replies", _failed_in_a_row(rows))
        yield self._gauge("round_seconds", "Duration of the last round", last.get("seconds", 0.0))
        yield self._gauge("epsilon_spent", "Epsilon of the released model so far", self._account.epsilon_model())
        yield self._gauge("epsilon_server", "Epsilon of one client against the server", self._account.epsilon_server())
        yield self._gauge("epsilon_budget", "Epsilon that is planned", float(self._account.plan.epsilon))
        yield self._gauge("updated_timestamp_seconds", "When this file was written", time.time())
        for state in ("running", "completed", "failed", "stopped"):
            yield self._gauge(state, f"1 if the run is {state}", float(self._state == state))
        yield from self._nodes()

    def _nodes(self) -> Iterator[Metric]:
        there = self._attendance
        yield self._gauge("waiting", "1 while the run waits for nodes and charges nothing", float(there.waiting))
        yield self._gauge("nodes_enrolled", "Enrolled nodes", there.enrolled)
        yield self._gauge("nodes_online", "Enrolled nodes online when last looked at", there.online)
        yield self._gauge("nodes_needed", "Nodes that must be online before a round is charged", there.needed)
        answered = self._labeled("site_last_answer_timestamp_seconds", "Last answer of a site, an error included")
        unanswered = self._labeled("site_rounds_unanswered", "Rounds in a row a site was asked in and did not answer")
        for node in there.nodes:
            labels = [self._folder.path.name, there.name_of(node)]
            if node in there.last_answer:
                answered.add_metric(labels, there.last_answer[node])
            unanswered.add_metric(labels, there.unanswered.get(node, 0))
        yield from (answered, unanswered)

    def _counter(self, name: str, meaning: str, value: float) -> CounterMetricFamily:
        family = CounterMetricFamily(f"dr_encoder_{name}", meaning, labels=["run"])
        family.add_metric([self._folder.path.name], value)
        return family

    def _gauge(self, name: str, meaning: str, value: float) -> GaugeMetricFamily:
        family = GaugeMetricFamily(f"dr_encoder_{name}", meaning, labels=["run"])
        family.add_metric([self._folder.path.name], value)
        return family

    @staticmethod
    def _labeled(name: str, meaning: str) -> GaugeMetricFamily:
        return GaugeMetricFamily(f"dr_encoder_{name}", meaning, labels=["run", "site"])


def _failed_in_a_row(rows: list[dict[str, Any]]) -> int:
    """Of the rounds that asked somebody; the others say nothing of who does not answer."""
    asked = [row for row in rows if row["cohort"]]
    return sum(1 for _ in takewhile(lambda row: row["shortage"], reversed(asked)))


def _write_private(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
