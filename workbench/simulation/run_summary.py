"""What ``dr-encoder run`` prints when a run has ended."""

import json
from pathlib import Path
from typing import Any

from server_app.results.units import bytes_against_lora, clock, show, show_delta


def summary_of(folder: Path, seconds: float) -> str:
    """The figures of the finished run in ``folder``, and everything that qualifies them; ``seconds`` it took in all."""
    report: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    outcome, privacy, wire = report["outcome"], report["privacy"], report["communication"]
    lines = ["", f"Done in {clock(seconds)} ({outcome['stopped_because']}).", *_scores(outcome), *_epsilons(privacy)]
    own, lora = wire["per_client_run"], wire["per_client_run_plain_lora"]
    lines += [
        f"  bytes of a client, whole run {bytes_against_lora(own, lora)}",
        f"  results                      {folder} (report.html, adapter/)",
        *_caveats(report),
    ]
    return "\n".join(lines)


def _scores(outcome: dict[str, Any]) -> list[str]:
    base, final = outcome["base"], outcome["final"]
    lines = []
    if "accuracy" in final:
        lines.append(f"  accuracy on held-out rows    {base['accuracy']:.1%} -> {final['accuracy']:.1%}")
    if final:
        lines.append(f"  held-out loss                {base['loss']:.3f} -> {final['loss']:.3f}")
    return lines


def _epsilons(privacy: dict[str, Any]) -> list[str]:
    released, server = privacy["released_model"], privacy["one_client_against_server"]
    unclaimed = f" (nothing is claimed: {server['not_claimed_because']})" if server["not_claimed_because"] else ""
    return [
        f"  epsilon, released model      {show(released['epsilon'])} at delta {show_delta(released['delta'])}, "
        f"end to end; assumes: {released['assumes']}",
        f"  epsilon, client v. server    {show(server['epsilon'])}{unclaimed}",
    ]


def _caveats(report: dict[str, Any]) -> list[str]:
    outcome, privacy = report["outcome"], report["privacy"]
    lines = []
    if privacy["released_model"]["cross_check"].get("agrees") is False:
        lines.append("  THE TWO ACCOUNTANTS DISAGREE on that epsilon: see report.md before you rely on it")
    lines += [f"  WARNING: {text}" for text in (outcome["warning"], outcome["shortage_warning"]) if text]
    if privacy["not_private_because"]:
        lines.append(f"  NOT PRIVATE end to end: {privacy['not_private_because']}")
    return lines
