"""The report of a run: ``report.json`` (schema in docs/results.md), ``report.md`` with plots, ``report.html``.

``report.json`` is the server's own. The pages and the plots are to be published: no path, time, duration or count that
depends on who was asked or answered stands in them.
"""

import importlib.metadata
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from common.counts import count
from common.wire.digest import app_digest
from server_app.privacy.account import PrivacyAccount, assumptions
from server_app.privacy.plan import PrivacyPlan, why_infinite
from server_app.privacy.shares import colluders_counted
from server_app.results.facts import ALL_DONE
from server_app.results.folder import RunFolder
from server_app.results.html.page import html
from server_app.results.page import markdown
from server_app.results.plots import draw_plots
from server_app.results.repeating import public_settings
from server_app.results.run_bytes import plain_lora_bytes, run_bytes
from server_app.results.score_names import PRIVATE_ACCURACY, PRIVATE_LOSS
from server_app.rounds.divergence import VALIDATION_LOSS
from server_app.strategies.base import FederatedAdapter
from server_app.strategies.findings import Findings

SCHEMA = 1
_POINTS = 2.0  # of accuracy below the base model: more is said
_MANY = 0.5  # of the rounds had too few replies: more is said
_PACKAGES = ("flwr", "torch", "transformers", "peft", "datasets", "flwr-datasets", "dp-accounting")


@dataclass(frozen=True)
class Scores:
    """What the public examples say of the adapter that is saved.

    Attributes:
        final: its scores, with the round it is of; empty without examples.
        examples: how many were scored, as ``Scorer.describe`` has it; empty without.
        samples: some of them, as ``Samples`` has them.

    """

    final: Mapping[str, Any] = field(default_factory=dict)
    examples: Mapping[str, Any] = field(default_factory=dict)
    samples: Sequence[Mapping[str, Any]] = ()


def write_report(
    folder: RunFolder,
    strategy: FederatedAdapter,
    findings: Findings,
    scores: Scores,
    seconds: float,
    *,
    plots: bool = True,
) -> dict[str, Any]:
    """Write every document of the results folder and return the report; without ``plots`` no picture and no HTML."""
    rows, config = folder.read_metrics(), strategy.config
    report = {
        "schema": SCHEMA,
        "run": _run(folder, strategy, seconds),
        "settings": public_settings(config, len(strategy.nodes)),
        "outcome": _outcome(rows, strategy, scores),
        "privacy": describe_privacy(strategy.account),
        "communication": _communication(strategy),
        "codec": {"kind": config.codec.kind, "form": config.codec.form, "values": strategy.codec.size}
        | dict(strategy.state.prior),
        "strategy": findings.details(),
        "samples": list(scores.samples),
    }
    folder.write_json("report.json", report)
    (folder.path / "report.md").write_text(markdown(report), encoding="utf-8")
    if plots:
        draw_plots(folder.path, rows, report)
        (folder.path / "report.html").write_text(html(report, rows), encoding="utf-8")
    return report


def _run(folder: RunFolder, strategy: FederatedAdapter, seconds: float) -> dict[str, Any]:
    config = strategy.config
    return {
        "name": folder.path.name,
        "strategy": config.strategy.name,
        "control": strategy.control,
        "model": config.model.name,
        "data": config.data.name,
        "seed": config.seed,
        "clients": len(strategy.nodes),
        "rounds_planned": config.num_server_rounds,
        "rounds_run": strategy.state.round,
        "seconds": round(seconds, 1),
        "app_digest": app_digest(),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def _outcome(rows: list[dict[str, Any]], strategy: FederatedAdapter, scores: Scores) -> dict[str, Any]:
    final = dict(scores.final)
    scored = [row for row in rows if "loss" in row]
    noisy = math.isfinite(strategy.account.plan.epsilon)
    return {
        "stopped_because": strategy.stop_reason or ALL_DONE,
        "divergence_judged_on": _judges(scored),
        "rounds_short_of_replies": sum(1 for row in rows if row.get("shortage")),
        "base": _scores(scored[0]) if scored else {},
        "final": final,
        "private": private_ends(rows, strategy.state.adapter_round),
        "examples": dict(scores.examples),
        "warning": _warning(_scores(scored[0]) if scored else {}, final, noisy=noisy)
        or ("" if strategy.state.diverged else _unchanged(scored, final)),
        "shortage_warning": _shortage_warning(rows),
    }


def private_ends(rows: Sequence[Mapping[str, Any]], kept: int) -> dict[str, Any]:
    """First and last scores of the clients' own held-out rows, as the noise left them; empty without any.

    None is of a round after ``kept``, whose adapter is released: a run that diverged went back to it. Empty, too, where
    those of the base model are lost, since nothing else is to stand in their place.
    """
    scored = [row for row in rows if PRIVATE_LOSS in row and row["round"] <= kept]
    names = ("round", *(f"{name}{of}" for name in (PRIVATE_LOSS, PRIVATE_ACCURACY) for of in ("", "_error")))
    ends = {"base": scored[0], "final": scored[-1]} if scored and not scored[0]["round"] else {}
    return {end: {name: row[name] for name in names} for end, row in ends.items()}


def _judges(scored: list[dict[str, Any]]) -> str:
    """Which examples decided whether the run diverged, and so which adapter was kept."""
    if not scored:
        return "no examples: only whether the adapter is finite"
    return "public validation examples" if VALIDATION_LOSS in scored[0] else "the held-out examples that are scored"


def _warning(base: dict[str, Any], final: dict[str, Any], *, noisy: bool) -> str:
    """What to say of a model that came out worse than it went in: by two points of accuracy, or by loss as printed."""
    advice = f"do not use this adapter (smaller steps{', larger epsilon' if noisy else ''})"
    judged = "accuracy" in base and "accuracy" in final
    points = 100 * (base["accuracy"] - final["accuracy"]) if judged else 0.0
    if points > _POINTS:
        return f"ended {points:.1f} points BELOW the base model: {advice}"
    if "loss" not in base or "loss" not in final or round(final["loss"], 3) <= round(base["loss"], 3):
        return ""
    said = f"ended with loss {final['loss']:.3f}, ABOVE the base model's {base['loss']:.3f}"
    if judged and points < 0:
        return f"{said}, though accuracy rose by {-points:.1f} points: look at both before you use this adapter"
    return f"{said}: {advice}"


def _unchanged(scored: list[dict[str, Any]], final: dict[str, Any]) -> str:
    """What to say of an adapter without effect: its loss is the base model's to the last digit."""
    if not scored or scored[0]["loss"] != final.get("loss"):
        return ""
    return "ended with the very loss of the base model: this adapter changes nothing"


def _shortage_warning(rows: list[dict[str, Any]]) -> str:
    """What to say where most rounds that asked somebody had too few replies; how many would tell of secret cohorts."""
    asked = [row for row in rows if row["round"] and row["cohort"]]
    if sum(1 for row in asked if row.get("shortage")) <= _MANY * len(asked):
        return ""
    return (
        "MOST ROUNDS HAD TOO FEW REPLIES: they spent budget and added noise, so this is no success; find out why "
        "(events.jsonl) before you use this adapter"
    )


def _scores(row: dict[str, Any]) -> dict[str, Any]:
    wanted = ("round", *(f"{name}{of}" for name in ("loss", "accuracy", "retention") for of in ("", "_error")))
    return {key: value for key, value in row.items() if key in wanted or key.startswith(("loss.", "accuracy."))}


def describe_privacy(account: PrivacyAccount) -> dict[str, Any]:
    """Both epsilons with what each is of, against whom, under which adjacency, delta and accountant."""
    plan, privacy = account.plan, account.plan.privacy
    shared = {
        "delta": plan.delta,
        "unit": "one client with all its examples, over the whole run",
        "adjacency": "zero-out: the client's contribution replaced by zero",
    }
    epsilon = account.certify()
    secure = privacy.trust == "secure"
    epsilon_server = epsilon if secure else account.epsilon_server()
    released = {
        "epsilon": epsilon,
        "epsilon_of_stage_1": account.epsilon_of_statistics(),
        "epsilon_before_round_1": account.epsilon_before_rounds(),
        "of": "the released model: adapter/ and every intermediate adapter that clients received"
        + (", and the scores on clients' own rows" if plan.evaluation else ""),
        "against": _outsiders(privacy.trust),
        "accountant": "dp_accounting PLD, pessimistic grid 1e-4, over every charge in ledger.jsonl",
        "cross_check": account.cross_check(epsilon),
        "assumes": assumptions(plan),
        **shared,
    }
    server = {
        "epsilon": epsilon_server,
        "not_claimed_because": plan.why_infinite_to_server(epsilon_server),
        "noise_multiplier_of_a_message": account.message_noise,
        **(_of_sums() if secure else _of_messages(account)),
        "assumes": assumptions(plan) if secure else "nothing of other clients; cohorts need not be secret",
        **shared,
    }
    return {
        "released_model": released,
        "one_client_against_server": server,
        "not_private_because": why_infinite(plan.reason, epsilon),
        "noise_source": _noise_source(plan),
        "trust": privacy.trust,
        "planned_epsilon": plan.epsilon,
        "colluders": colluders_counted(privacy, plan.clients),
        "dropouts": privacy.dropouts if secure else None,
        "clip_norm": privacy.clip_norm,
        "clipping": privacy.clipping,
        "sampling_rate": privacy.sampling_rate,
        "noise_multiplier": plan.round.noise_multiplier,
        "statistics_noise_multiplier": plan.stage_one.noise_multiplier if plan.stage_one else 0.0,
        "evaluation_noise_multiplier": plan.evaluation.noise_multiplier if plan.evaluation else 0.0,
        "noise_shares": plan.shares,
        "delta_set_aside": plan.slack,
        "rounds_charged": account.rounds_charged,
        "evaluations_charged": account.evaluations_charged,
    }


def _of_messages(account: PrivacyAccount) -> dict[str, Any]:
    return {
        "of": f"all messages of a client that is asked in {count(account.participations, 'round')}"
        f"{' and in stage 1' if account.plan.stage_one else ''}, more than any is expected to be"
        + (f", and in {count(account.evaluations_charged, 'private evaluation')}" if account.plan.evaluation else ""),
        "against": "the server, which sees each message by itself (no secure aggregation, no amplification)",
        "accountant": "exact Gaussian composition: mu^2 = sum over its messages of 1/z^2",
    }


def _of_sums() -> dict[str, Any]:
    return {
        "of": "all messages of a client, of which only sums over all clients can be read (secure aggregation)",
        "against": "the server, and whoever watches the network",
        "accountant": "that of the released model: the server sees the noisy sums that the model is made of",
    }


def _noise_source(plan: PrivacyPlan) -> str:
    if not any(charge and charge.noise_multiplier for charge in (plan.round, plan.stage_one)):
        return "none: no noise is added"
    return "discrete Gaussian on an integer grid, from the operating system's random generator"


def _outsiders(trust: str) -> str:
    if trust == "secure":
        return "anyone who sees the model (the clients share the noise; the server sees sums only)"
    if trust == "local":
        return "anyone but the server and the clients' own machines; each client noises in full"
    who = "the server adds the noise" if trust == "central" else "the clients share the noise, the server tops it up"
    return f"anyone who sees the model but not the messages ({who}; the server is trusted with the messages)"


def _communication(strategy: FederatedAdapter) -> dict[str, Any]:
    """Bytes both ways of one client over the whole run, beside those of plain LoRA under the same noise.

    What is published is the plan for as many rounds, with the encoder that there was. A round that was lost released no
    sum, so with the sums that there were a figure tells how many were, and that depends on who answered.
    """
    config, recipe, plan, rounds = strategy.config, strategy.recipe, strategy.account.plan, strategy.state.round
    spec, sums = strategy.codec.redraw(0).spec(), strategy.state.sums
    ours = run_bytes(config, recipe, plan, rounds, encoder=spec)
    released = run_bytes(config, recipe, plan, rounds, encoder=spec, released=sums)
    lora = plain_lora_bytes(config, recipe, plan, rounds)
    return {
        "adapter_values": strategy.layout.size,
        "code_values": strategy.codec.size,
        "per_client_run": ours.figures(),
        "per_client_run_as_released": released.figures(),
        "per_client_run_plain_lora": lora.figures(),
        "times_smaller_than_plain_lora": lora.both / ours.both if ours.both else 1.0,
        "cover": config.federation.cover or plan.trust == "secure",
        "expected_bytes_up": ours.up * plan.clients,
        "expected_bytes_down": ours.down * plan.clients,
    }
