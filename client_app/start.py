"""Where a client's training starts: the adapter that came, or the one that follows from the released sums.

The last rebuilt adapter stays in this process, so a round costs the step of the round before and no more. It is held
against the digest in the instruction: on a machine that rounds otherwise nothing is trained from a wrong one.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from client_app.encoders import encoder_for
from client_app.holdings import Holdings, Trail
from common.adapter import Layout, RankCut
from common.codecs.base import Codec
from common.model.adapted import AdaptedModel, initial_adapter
from common.optimizer import AdapterOptimizer
from common.trajectory import RoundSum, StepTerms, adapter_digest, epoch_of
from common.wire.records import Instruction, Sums, WireError, received_adapter
from common.wire.sums import MOST_SUMS, Entry, unpack_sum


class Started(NamedTuple):
    """An adapter (shape ``[n]``), and what later ones can be made of; ``None``: these come as they are, like this."""

    adapter: Tensor
    trail: Trail | None


@dataclass
class _Rebuilt:
    """The last rebuilt adapter: of which model and assignment, along which trail."""

    adapted: AdaptedModel
    assignment: bytes
    trail: Trail
    optimizer: AdapterOptimizer


_last: list[_Rebuilt] = []


def started(
    instruction: Instruction, assignment: bytes, adapted: AdaptedModel, cut: RankCut, seed: int, holdings: Holdings
) -> Started | None:
    """The run's adapter of an instruction whose assignment has a name; ``None`` where what it follows from is lacking.

    ``cut``: how it goes into the model's own; ``seed``: of the run. Raises ``WireError`` for what does not fit.
    """
    start, terms = instruction.start, instruction.task.step_terms
    if not isinstance(start, Sums):
        if terms is None or not isinstance(start, Tensor):
            return Started(received_adapter(start, cut.full), None)
        trail = Trail((), start.numpy().tobytes(), max(0, instruction.task.round - 1))
        return Started(_along(trail, terms, torch.zeros(cut.full.size)).adapter, trail)
    kept = holdings.trail(assignment, start.base)
    if kept is None:
        return None
    trail = kept.further(start.entries)
    initial = adapted.initial.cpu() if cut.is_whole else initial_adapter(cut.full, seed)
    adapter = _rebuilt(adapted, cut.full, initial, assignment, trail, instruction)
    if adapter_digest(adapter) != start.digest:
        _last.clear()
        return None
    if not torch.isfinite(adapter).all():
        raise WireError("the sums make an adapter with NaN or infinities")
    return Started(adapter, trail if holdings.simulated else _shortened(trail))


def _shortened(trail: Trail) -> Trail:
    """The trail of the last rebuilt adapter, or its end alone where that is less to keep, or to go along anew.

    So a server can make a site keep no more than twice the adapter with its averages.
    """
    length = sum(len(entry.data) for entry in trail.entries)
    if not trail.entries or (length <= _last[0].optimizer.snapshot_bytes and len(trail.entries) <= MOST_SUMS):
        return trail
    end = _last[0].optimizer.snapshot().numpy().tobytes()
    _last[0].trail = Trail((), end, trail.entries[-1].round)
    return _last[0].trail


def _along(trail: Trail, terms: StepTerms, initial: Tensor) -> AdapterOptimizer:
    """An optimizer where a trail begins; ``WireError`` for a snapshot of another adapter or optimizer."""
    try:
        optimizer = terms.start(initial)
        if trail.snapshot:
            optimizer.resume(torch.frombuffer(bytearray(trail.snapshot), dtype=torch.float32))
    except ValueError as error:
        raise WireError(f"the adapter's state: {error}") from error
    return optimizer


def _rebuilt(
    adapted: AdaptedModel,
    full: Layout,
    initial: Tensor,
    assignment: bytes,
    trail: Trail,
    instruction: Instruction,
) -> Tensor:
    encoder, task, entries = instruction.encoder, instruction.task, list(trail.entries)
    terms = task.step_terms
    if not entries and not trail.snapshot:
        return initial
    if terms is None or (entries and entries[-1].round >= task.round):
        raise WireError(f"sums for round {task.round} that are of later ones, or of no known step")

    def codec_of(number: int) -> Codec:
        codec = encoder_for(encoder, full, task.terms.size, epoch_of(number, task.refresh_every))
        if not isinstance(codec, Codec) or not codec.seeded:
            raise WireError(f"codec '{encoder.kind}' is none whose sums a client can use")
        return codec

    known = _last[0] if _last else None
    if known is None or known.adapted is not adapted or not _leads_on(known, assignment, trail):
        known = _Rebuilt(adapted, assignment, replace(trail, entries=()), _along(trail, terms, initial))
    _last.clear()  # what is not advanced to the end is none
    new = entries[len(known.trail.entries) :]
    terms.advance(known.optimizer, (_unpacked(entry, task.terms.size) for entry in new), codec_of)
    _last[:] = [_Rebuilt(adapted, assignment, trail, known.optimizer)]
    return known.optimizer.adapter


def _leads_on(known: _Rebuilt, assignment: bytes, trail: Trail) -> bool:
    """Whether a trail goes on where the last rebuilt adapter is."""
    before = list(known.trail.entries)
    same = known.assignment == assignment and replace(known.trail, entries=()) == replace(trail, entries=())
    return same and list(trail.entries[: len(before)]) == before


def _unpacked(entry: Entry, size: int) -> RoundSum:
    try:
        return unpack_sum(entry, size)
    except ValueError as error:
        raise WireError(str(error)) from error
