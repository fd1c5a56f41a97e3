"""What a report says of a run of the paper's printed mechanism: its claim beside what it gives."""

import math
from typing import Any

from common.config import PrivacyConfig
from common.privacy.printed import composed_epsilon
from server_app.privacy.plan import PrivacyPlan
from server_app.results.units import show


def describe_printed(plan: PrivacyPlan, privacy: PrivacyConfig, rounds: int) -> dict[str, Any]:
    """The claim of Eq (7) after ``rounds`` and the exact figures of stage 2; ``{}`` when another mechanism ran.

    ``mean_only``: against outsiders (trust ``central``), or the server under secure aggregation (``distributed``), if
    all other clients add their noise. ``single_messages``: against the server (``local``), or all others together.
    """
    printed = plan.printed
    if printed is None or rounds == 0:
        return {}
    return {
        "sigma": printed.sigma,
        "tensors_clipped_one_by_one": printed.tensors,
        "sensitivity": printed.joint_bound,
        "noise_std_of_a_message": printed.message_multiplier * printed.joint_bound,
        "claimed_epsilon": printed.claimed_epsilon(privacy.sampling_rate, rounds, plan.delta),
        "stage_2": {
            "mean_only": composed_epsilon(printed.mean_multiplier, rounds, plan.delta),
            "single_messages": composed_epsilon(printed.message_multiplier, rounds, plan.delta),
        },
        "end_to_end": math.inf if plan.stage_one else None,
        "accountant": "claim: central limit of Gaussian DP, Eq (7); stage_2: exact composition of the Gaussians in all "
        "rounds, not amplified, for a client asked in each",
        "delta": plan.delta,
    }


def printed_sentences(printed: dict[str, Any]) -> list[str]:
    """The same as Markdown lines: the claim, stage 2 in each trust model, and the end-to-end figure."""
    if not printed:
        return []
    stage_2 = printed["stage_2"]
    lines = [
        f"The paper's analysis would claim epsilon = {printed['claimed_epsilon']:.3f} at delta = "
        f"{printed['delta']:g} (Eq 7, sigma = {printed['sigma']:.3g}). Its printed mechanism gives, in stage 2 alone:",
        "",
        f"- epsilon = {show(stage_2['mean_only'])} against who sees only the mean (outsiders; the server under secure "
        "aggregation), if all other clients add their noise;",
        f"- epsilon = {show(stage_2['single_messages'])} against who sees single messages (the server) or makes common "
        "cause with all other clients.",
        "",
    ]
    if printed["end_to_end"]:
        lines.append("End to end it gives none (inf): stage 1 travels in the clear.")
    return lines
