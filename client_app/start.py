"""Where a client's training starts: the adapter that came, or the one that follows from the released sums.

The last rebuilt adapter stays in this process, so a round costs the step of the round before and no more. It is held
against the digest in the instruction: on a machine that rounds otherwise nothing is trained from a wrong one.
"""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from client_app.encoders import encoder_for
from client_app.holdings import Holdings
from common.adapter import RankCut
from common.codecs.base import Codec
from common.model.adapted import AdaptedModel, initial_adapter
from common.optimizer import AdapterOptimizer
from common.trajectory import RoundSum, adapter_digest, epoch_of
from common.wire.records import Instruction, Sums, WireError, received_adapter
from common.wire.sums import Entry, unpack_sum


class Started(NamedTuple):
    """An adapter (shape ``[n]``), and the sums that it is made of; ``None``: it came as it is."""

    adapter: Tensor
    entries: list[Entry] | None


@dataclass
class _Rebuilt:
    """The last rebuilt adapter: of which model and assignment, after which sums."""

    adapted: AdaptedModel
    assignment: bytes
    entries: list[Entry]
    optimizer: AdapterOptimizer


_last: list[_Rebuilt] = []


def started(
    instruction: Instruction, assignment: bytes, adapted: AdaptedModel, cut: RankCut, seed: int, holdings: Holdings
) -> Started | None:
    """The run's adapter of an instruction whose assignment has a name; ``None`` where what it follows from is lacking.

    ``cut``: how it goes into the model's own; ``seed``: of the run. Raises ``WireError`` for what does not fit.
    """
    start = instruction.start
    if not isinstance(start, Sums):
        return Started(received_adapter(start, cut.full), None)
    kept = holdings.sums(assignment, start.base)
    if kept is None:
        return None
    entries = [*kept, *start.entries]
    initial = adapted.initial.cpu() if cut.is_whole else initial_adapter(cut.full, seed)
    adapter = _rebuilt(adapted, cut, initial, assignment, entries, instruction)
    if adapter_digest(adapter) != start.digest:
        _last.clear()
        return None
    return Started(adapter, entries)


def _rebuilt(
    adapted: AdaptedModel,
    cut: RankCut,
    initial: Tensor,
    assignment: bytes,
    entries: list[Entry],
    instruction: Instruction,
) -> Tensor:
    if not entries:
        return initial
    encoder, task = instruction.encoder, instruction.task
    terms = task.step_terms
    if terms is None or entries[-1].round >= task.round:
        raise WireError(f"sums up to round {entries[-1].round} for round {task.round}, of no known step")

    def codec_of(number: int) -> Codec:
        codec = encoder_for(encoder, adapted, task.terms.size, epoch_of(number, task.refresh_every), cut)
        if not isinstance(codec, Codec) or not codec.seeded:
            raise WireError(f"codec '{encoder.kind}' is none whose sums a client can use")
        return codec

    known = _last[0] if _last else None
    follows = known is not None and known.adapted is adapted and known.assignment == assignment
    if known is None or not follows or entries[: len(known.entries)] != known.entries:
        try:
            known = _Rebuilt(adapted, assignment, [], terms.start(initial))
        except ValueError as error:
            raise WireError(str(error)) from error
    new = entries[len(known.entries) :]
    terms.advance(known.optimizer, (_unpacked(entry, task.terms.size) for entry in new), codec_of)
    _last[:] = [_Rebuilt(adapted, assignment, entries, known.optimizer)]
    return known.optimizer.adapter


def _unpacked(entry: Entry, size: int) -> RoundSum:
    try:
        return unpack_sum(entry, size)
    except ValueError as error:
        raise WireError(str(error)) from error
