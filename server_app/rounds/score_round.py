"""Private evaluation as a question to everybody who is there, and what came of it."""

import logging
from collections.abc import Iterable, Sequence

import torch

from common.privacy.mechanism import ReleaseTerms, sum_releases
from common.privacy.noise import RandomSource
from common.wire.records import EVALUATE
from server_app.log import log_event
from server_app.rounds.cohort import Instruction
from server_app.rounds.downlink import Downlink, Parcel
from server_app.rounds.private_scores import PrivateScores
from server_app.rounds.round import Heard
from server_app.rounds.secure import SecureAggregation

_ALL = 1.0  # everybody's scores are in, so under secure aggregation every coin says heads


def ask_scores(
    parcel: Parcel,
    terms: ReleaseTerms,
    nodes: Sequence[int],
    away: Iterable[int],
    downlink: Downlink,
    secure: tuple[SecureAggregation, int] | None,
    timeout: float,
) -> Instruction:
    """The question after the round before the parcel's, for all ``nodes`` that are not ``away``.

    ``secure``: secure aggregation with the number of the exchange, where there is any.
    """
    number, missing = parcel.task.round, set(away)

    if secure is None:
        asked = Instruction(number, terms, [node for node in nodes if node not in missing], scores=True)
    else:
        asked = secure[0].instruction(number, terms, secure[1], _ALL, missing, scores=True)
    asked.address(lambda node: downlink.content(parcel, node), EVALUATE, timeout)
    log_event("evaluation_started", round=asked.told, cohort=len(asked.cohort))
    return asked


def heard_scores(asked: Instruction, heard: Heard, clients: int, source: RandomSource) -> PrivateScores | None:
    """The scores over all ``clients``; ``None`` where masks did not come off. ``source``: of the server's noise."""
    found, terms, moved = heard.replies, asked.terms, heard.traffic(asked)
    log_event(
        "evaluation_answered", level=logging.WARNING if heard.shortage else logging.INFO, round=asked.told,
        replies=len(found.releases), asked=moved.asked, answered=moved.answered, reason=heard.shortage,
        noise_present=terms.total_std(len(found.releases)),
    )  # fmt: skip
    if heard.shortage:
        return None
    releases = [found.releases[node] for node in sorted(found.releases)]
    steps = sum_releases(releases, terms, source) if heard.summed is None else heard.summed
    total = torch.from_numpy(steps * (terms.grid_step or 1.0))
    return PrivateScores.of(total, terms, clients)
