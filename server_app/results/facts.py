"""What is said of a run in every document that is published: each sentence and table is made here, once.

Paths, times and counts that depend on who was asked or answered are in none of them.
"""

import math
from collections.abc import Mapping
from typing import Any

from common.counts import count
from common.score_code import LOSS_BOUND
from server_app.privacy.account import cross_check_sentence
from server_app.results.score_names import PRIVATE_ACCURACY, PRIVATE_LOSS, error_of, is_error, part_of
from server_app.results.units import data_size, show, show_delta, times
from server_app.rounds.controls import control_warning

ALL_DONE = "all rounds done"
"""Why a run ended that came to its end."""

_HALF = 0.5
Rows = list[tuple[str, ...]]
_SIZES = " (and, if they ask Flower's server for its counts of bytes, how large the cohorts are: then less is promised)"
_NO_CLIENT = "nothing is claimed: each knows its own share of the noise"


def headline(privacy: Mapping[str, Any]) -> str:
    """What is protected, at which ε, against whom: one sentence, for who reads no other."""
    model = privacy["released_model"]
    if math.isinf(float(model["epsilon"])):
        return f"Nothing is protected end to end: ε is infinite, because {privacy['not_private_because']}."
    server = privacy["one_client_against_server"]
    operator = (
        "Against the server's operator nothing is claimed."
        if math.isinf(float(server["epsilon"]))
        else f"Against the server's operator it is ε = {show(server['epsilon'])}."
    )
    return (
        "Whatever one client holds, all its examples over the whole run, is protected at ε = "
        f"{show(model['epsilon'])}, δ = {show_delta(model['delta'])}, against who has the model ({model['assumes']}). "
        f"{operator}"
    )


def extent(report: Mapping[str, Any]) -> str:
    """How long the run was, with how many, and why it ended."""
    run, outcome = report["run"], report["outcome"]
    return (
        f"{run['rounds_run']} of {count(run['rounds_planned'], 'round')} with "
        f"{count(run['clients'], 'enrolled client')}; ended because: {outcome['stopped_because']}. Divergence was "
        f"judged on {outcome['divergence_judged_on']}."
    )


def warnings(report: Mapping[str, Any]) -> list[str]:
    """What must not be overlooked; that replies were missing is not among it, since it tells who took part."""
    privacy = report["privacy"]
    outcome = report["outcome"]
    found = [control_warning(report["run"]["control"]), outcome["warning"], *outcome["examples"].get("warnings", ())]
    if privacy["released_model"]["cross_check"].get("agrees") is False:
        found.append(f"The two accountants differ: ε {cross_check_sentence(privacy['released_model']['cross_check'])}")
    return [text for text in found if text]


def utility_table(outcome: Mapping[str, Any]) -> Rows:
    """Each score before and after, ± its standard error where there is one; empty without held-out examples."""
    base, final = outcome["base"], outcome["final"]
    return [
        (", ".join(part for part in part_of(key) if part is not None), _score(key, base), _score(key, final))
        for key in base
        if key != "round" and not is_error(key)
    ]


def private_table(outcome: Mapping[str, Any]) -> Rows:
    """The clients' own scores before and after, ± the noise; empty where they were not asked for."""
    ends = outcome.get("private")
    if not ends:
        return []
    base, final = ends["base"], ends["final"]
    return [
        (name, _score(key, base), _score(key, final))
        for key, name in ((PRIVATE_ACCURACY, "next token right"), (PRIVATE_LOSS, "loss (nats per token)"))
    ]


def private_is_lost(outcome: Mapping[str, Any]) -> bool:
    """Whether noise has a standard deviation above half the range of an accuracy, so that its score tells nothing."""
    return bool(outcome.get("private")) and outcome["private"]["final"][f"{PRIVATE_ACCURACY}_error"] > _HALF


def privately_scored_on(outcome: Mapping[str, Any]) -> str:
    """What the clients' own scores are of, and what ± means there."""
    last = outcome["private"]["final"]
    lost = " The noise is larger than all that they could show: they tell nothing." if private_is_lost(outcome) else ""
    return (
        f"Of the model after round {last['round']}, on rows that clients hold out of training: the mean over all "
        f"enrolled clients, one vote each, of the completions' tokens; a loss counts up to {LOSS_BOUND:g}. Who does "
        "not answer counts as the middle of the range (50 %, "
        f"{LOSS_BOUND / 2:g}). ± is one standard deviation of the noise; the ε above includes these scores."
        f"{lost}"
    )


def scored_on(outcome: Mapping[str, Any]) -> str:
    """How many questions the scores are of, and what ± means; ``""`` without held-out examples."""
    examples = outcome["examples"]
    if not examples:
        return ""
    groups = ", ".join(f"{name} {size:,}" for name, size in examples["groups"].items())
    parts = f" ({groups})" if len(examples["groups"]) > 1 else ""
    kept = f", {examples['retention']:,} for retention" if examples["retention"] else ""
    guessing = f" Guessing scores {examples['guessing']:.1%}." if examples["guessing"] else ""
    return (
        f"{count(examples['held_out'], 'held-out question')}{parts}{kept}. ± is one standard error over the questions, "
        f"taken as independent; it says nothing of other seeds.{guessing}"
    )


def privacy_table(privacy: Mapping[str, Any]) -> dict[str, str]:
    """The guarantee by its parts: what ε is of, against whom, under which terms."""
    model, server = privacy["released_model"], privacy["one_client_against_server"]
    first, why = privacy["statistics_noise_multiplier"], server["not_claimed_because"]
    noise = f"{privacy['noise_multiplier']:.4f} in a round" + (f", {first:.4f} in stage 1" if first else "")
    scores = privacy.get("evaluation_noise_multiplier", 0.0)
    noise += f", {scores:.4f} in a private evaluation" if scores else ""
    return {
        "ε": f"{show(model['epsilon'])} at δ = {show_delta(model['delta'])}",
        "of": model["of"],
        "against": model["against"],
        "unit": model["unit"],
        "adjacency": model["adjacency"],
        "accountant": model["accountant"],
        "assumed": model["assumes"],
        "clients that may pool what they know of the noise": _colluders(privacy),
        **_dropouts(privacy),
        "trust model": f"{privacy['trust']} (`privacy.trust`)",
        "ε of one client against the server": show(server["epsilon"])
        + (f" (nothing is claimed: {why})" if why else ""),
        "noise multiplier (std over the clip norm)": noise,
        "noise": privacy["noise_source"],
    }


def parties(report: Mapping[str, Any]) -> Rows:
    """Who sees what of this run, and what is promised against each."""
    privacy, covered = report["privacy"], report["communication"]["cover"]
    model, server = privacy["released_model"], privacy["one_client_against_server"]
    epsilon, alone = _promise(model["epsilon"]), _promise(server["epsilon"])
    secure = privacy["trust"] == "secure"
    own_noise = "each client's message, which carries no noise" if not server["noise_multiplier_of_a_message"] else (
        "noisy sums over all clients that answered" if secure else "each client's noisy message by itself"
    )  # fmt: skip
    amplified = "cohorts stay secret" in model["assumes"]
    watcher = epsilon if covered or not amplified else alone
    return [
        ("anyone with the adapter and this report", "the model and public figures", epsilon),
        (
            "other clients",
            "the models of the rounds that they are asked in, their own noise"
            + (_SIZES if amplified and not covered else "")
            + f"; clients that may pool it: {_colluders(privacy)}",
            epsilon if privacy["trust"] not in _SHARED or privacy["colluders"] else _NO_CLIENT,
        ),
        (
            "the server's operator",
            own_noise if secure else f"{own_noise}, and who was asked",
            alone + ("" if math.isfinite(float(server["epsilon"])) else ": the operator is trusted"),
        ),
        (
            "who watches the network",
            "under TLS lengths and times"
            + (", every client being asked in every round" if covered else ", hence who was asked"),
            watcher + ("" if watcher == epsilon else " (cohorts are seen, so nothing is amplified)"),
        ),
    ]


_SHARED = ("distributed", "secure")
"""Trust models in which each client adds a part of the noise only."""
ASSUMED = (
    "Cohorts stay secret where ε is amplified by sampling; they are drawn from the operating system's randomness.",
    "Clients run the code that they have checked, and add the noise that they are told to.",
    "The server's operator is trusted as far as the table says; TLS protects messages on the way.",
    "Nothing but the published files leaves the server's folder.",
    "Held-out rows are public: nothing of them is protected, and five of them may be shown.",
    "Other runs on the same clients add up; this figure is of this run alone.",
)
"""What every run rests on; docs/privacy.md says why."""


def bytes_table(wire: Mapping[str, Any]) -> Rows:
    """Serialized bytes of one client in the whole run, expected, and of plain LoRA under the same noise."""
    own, lora = wire["per_client_run"], wire["per_client_run_plain_lora"]
    both = f"{data_size(lora['both'])} ({times(lora['both'], own['both'])})" if own["both"] else data_size(lora["both"])
    asked = f"both ways, for each round that asks it ({own['rounds_asked']:g})"
    return [
        ("one client, whole run: both ways", data_size(own["both"]), both),
        ("– up", data_size(own["up"]), data_size(lora["up"])),
        ("– down", data_size(own["down"]), data_size(lora["down"])),
        (asked, data_size(own["both_per_round_asked"]), data_size(lora["both_per_round_asked"])),
        ("all clients, up", data_size(wire["expected_bytes_up"]), ""),
        ("all clients, down", data_size(wire["expected_bytes_down"]), ""),
    ]


def _promise(epsilon: float | str) -> str:
    return f"ε = {show(epsilon)}" if math.isfinite(float(epsilon)) else "nothing is claimed"


def _score(key: str, scores: Mapping[str, Any]) -> str:
    percent = key.startswith(("accuracy", "retention", PRIVATE_ACCURACY))
    value, error = scores[key], error_of(key, scores)
    known = math.isfinite(error)
    if percent:
        return f"{value:.1%}" + (f" ± {100 * error:.1f}" if known else "")
    return f"{value:.3f}" + (f" ± {error:.3f}" if known else "")


def _dropouts(privacy: Mapping[str, Any]) -> dict[str, str]:
    missing = privacy.get("dropouts")  # None where no sum hangs on who answers
    return {} if missing is None else {"clients that a round may lack": f"{missing} (`privacy.dropouts`)"}


def _colluders(privacy: Mapping[str, Any]) -> str:
    """Only shares of a common noise can be pooled: elsewhere no client knows any noise that the sum rests on."""
    if privacy["trust"] not in _SHARED:
        return "any number"
    return f"at most {privacy['colluders']} (`privacy.colluders`)"
