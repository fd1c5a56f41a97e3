"""What a person sees while a run is under way: one line per event, marked so that a launcher can pick them out."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flwr.app import MetricRecord

from common.counts import count
from server_app.privacy.account import assumptions
from server_app.privacy.plan import PrivacyPlan
from server_app.results.units import MARK, clock, data_size, show, show_delta, show_multiplier, speak
from server_app.rounds.state import RoundSummary

_BY_CHANCE = 2.0  # of the energy that random directions hold, on average


class Stopwatch:
    """Elapsed time over all sessions of a run, and what is left of its ``rounds`` at the pace of this one."""

    def __init__(self, rounds: float, elapsed: float = 0.0) -> None:
        self._rounds = rounds
        self._before = elapsed
        self._started = time.monotonic()
        self._laps: list[float] = []

    @property
    def elapsed(self) -> float:
        """Seconds spent, earlier sessions included."""
        return self._before + time.monotonic() - self._started

    def lap(self) -> None:
        """Note the end of a round."""
        self._laps.append(time.monotonic())

    def left(self, server_round: int, seconds: float) -> float:
        """Seconds that the remaining rounds will take, by the mean of the last ten.

        ``seconds``: what the last round took by itself, which stands for all while it is this session's only one (the
        time before it went to start-up and stage 1).
        """
        recent = self._laps[-11:]
        pace = (recent[-1] - recent[0]) / (len(recent) - 1) if len(recent) > 1 else seconds
        return pace * (self._rounds - server_round)


class ConsoleLog:
    """Prints the story of a run to standard output; each line begins with ``mark``, by which a launcher finds it."""

    def __init__(self, mark: str = MARK) -> None:
        self._mark = mark

    def __call__(self, line: str) -> None:
        """Print one line."""
        speak(f"{self._mark}{line}")

    def opening(self, strategy: str, plan: PrivacyPlan, values: int, folder: Path) -> None:
        """What is going to happen, under which guarantee."""
        self(f"strategy {strategy}, {values:,} adapter values, results in {folder}")
        self(
            f"{count(plan.clients, 'client')}, expected cohort {plan.expected_cohort:g}, up to "
            f"{count(plan.rounds, 'round')}, "
            f"trust model: {plan.trust}"
        )
        if not plan.round.noise_multiplier:
            self(f"NOT PRIVATE: {plan.reason}")
            return
        stage_one = f"stage-1 noise {show_multiplier(plan.stage_one.noise_multiplier)}, " if plan.stage_one else ""
        goal = f"epsilon {show(plan.epsilon)} at delta {show_delta(plan.delta)} ({assumptions(plan)})"
        self(f"plan: {stage_one}stage-2 noise {show_multiplier(plan.round.noise_multiplier)} (x clip norm) -> {goal}")
        if plan.reason:
            self(f"end-to-end epsilon is inf: {plan.reason}")
        if plan.evaluation:
            self(
                f"private evaluation: {count(plan.evaluations, 'time')}, noise "
                f"{show_multiplier(plan.evaluation.noise_multiplier)}; the epsilon above includes it"
            )

    def remark(self, text: str) -> None:
        """Print a line, or nothing of an empty text."""
        if text:
            self(text)

    def warning(self, text: str) -> None:
        """What a person should mind; nothing is said of an empty text."""
        self.remark(text and f"WARNING: {text}")

    def base(self, metrics: MetricRecord | None) -> None:
        """How the untouched model does."""
        if metrics is not None:
            self(f"base model: {_scores(metrics)}")

    def prepared(self, prior: Mapping[str, Any], size: int, values: int) -> None:
        """How the codec came out of stage 1; ``size`` of ``values`` random directions hold that part."""
        if "captured_energy" in prior:
            energy, chance = float(prior["captured_energy"]), size / values
            if size == values:
                said = "every value as it is"
            elif energy < 0:
                said = (
                    f"trained, it is off by {1 - energy:.2g} times a gradient's energy: worse than giving back nothing"
                )
            elif energy < _BY_CHANCE * chance and "last_loss" in prior:
                said = f"trained, it holds {energy:.1%} of a gradient's energy, no more than chance would: {chance:.1%}"
            elif energy < _BY_CHANCE * chance:
                said = f"one random direction for {values / size:,.0f} values of the adapter, signal and noise alike"
            else:
                said = f"it holds {energy:.1%} of a training gradient's energy"
            self(f"stage 1 done: code of {count(size, 'value')}; {said}")

    def round(self, summary: RoundSummary, metrics: MetricRecord | None, watch: Stopwatch) -> None:
        """One line a round."""
        scores = _scores(metrics) if metrics is not None else "not evaluated"
        failed = f"  {summary.failures} failed: {summary.failure}" if summary.failures else ""
        failed += f"  TOO FEW REPLIES: {summary.shortage}" if summary.shortage else ""
        self(
            f"round {summary.round:>3}  {scores}  cohort {summary.replies}/{summary.cohort}  "
            f"epsilon {show(summary.epsilon)}  {data_size(summary.bytes_up)} up, {data_size(summary.bytes_down)} down  "
            f"left {clock(watch.left(summary.round, summary.seconds))}{failed}"
        )

    def closing(self, report: Mapping[str, Any]) -> None:
        """What the strategy has to say, the end, and why."""
        if report["strategy"].get("summary"):
            self(str(report["strategy"]["summary"]))
        self(f"finished: {report['outcome']['stopped_because']}")
        self.warning(report["outcome"]["warning"])
        self.warning(report["outcome"]["shortage_warning"])


def _scores(metrics: MetricRecord) -> str:
    """Of public examples and of the clients' own, as far as there are any."""
    found = []
    for of, name in (("", ""), ("private_", "clients' own: ")):
        loss, accuracy = metrics.get(f"{of}loss"), metrics.get(f"{of}accuracy")
        if isinstance(loss, float):
            found.append(f"{name}loss {loss:.3f}{_spread(metrics.get(f'{of}loss_error'), '.3f') if of else ''}")
        if isinstance(accuracy, float):
            found.append(f"accuracy {accuracy:6.1%}{_spread(metrics.get(f'{of}accuracy_error'), '.1%') if of else ''}")
    return "  ".join(found)


def _spread(error: object, form: str) -> str:
    return f" ± {error:{form}}" if isinstance(error, float) and error else ""
