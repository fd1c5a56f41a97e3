"""What each client is sent: no more than it lacks.

Clients name in their replies what they keep; a client of which nothing is known is sent everything. Whoever lacks more
than is known of it (its process or its node was started anew) says so, and is asked again with everything. All of it
depends on which questions were answered before, never on what was answered.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from flwr.app import RecordDict

from common.codecs.base import EncoderSpec
from common.wire.assignment import Task, digest_of, pack_assignment
from common.wire.records import Start, Sums, pack_assigned
from common.wire.sums import MOST_SUMS, Entry


@dataclass(frozen=True)
class Kept:
    """What a client keeps: an assignment, by name, and the sums under it up to a round."""

    assignment: bytes
    last: int


@dataclass(frozen=True)
class Parcel:
    """What a round's instructions are cut from.

    Attributes:
        task: what is asked.
        encoder: of the run's first draw.
        adapter: where training starts, whole: the adapter itself or its proxy; where sums are sent, with all that later
            steps follow from (``AdapterOptimizer.snapshot``), so that the next of them is enough then.
        digest: of the adapter that the sums give.
        entries: all sums that the adapter follows from; ``None`` where it does not follow from any.

    """

    task: Task
    encoder: EncoderSpec
    adapter: Start
    digest: bytes = b""
    entries: Sequence[Entry] | None = None
    _assignment: list[bytes] = field(default_factory=list)
    _cut: dict[tuple[bool, int], RecordDict] = field(default_factory=dict)

    @property
    def assignment(self) -> bytes:
        """The packed assignment, made once."""
        if not self._assignment:
            self._assignment.append(pack_assignment(self.encoder, self.task))
        return self._assignment[0]

    @property
    def name(self) -> bytes:
        """The assignment's name."""
        return digest_of(self.assignment)

    def content(self, kept: Kept | None, *, whole: bool = False) -> RecordDict:
        """The instruction for a client that keeps so much (``None``: nothing); one object for all of the kind.

        ``whole``: with the adapter itself, whatever it follows from.
        """
        if whole:
            return pack_assigned(self.adapter, self.assignment, self.task)
        known = kept is not None and kept.assignment == self.name
        base = kept.last if kept is not None and known and self.entries is not None else 0
        if (known, base) not in self._cut:
            start = self._start(base)
            self._cut[known, base] = pack_assigned(start, self.assignment, self.task, known=known)
        return self._cut[known, base]

    def _start(self, base: int) -> Start:
        """The sums after a round, or the adapter where that is smaller, or they are too many."""
        if self.entries is None:
            return self.adapter
        lacking = tuple(entry for entry in self.entries if entry.round > base)
        whole = 0 if isinstance(self.adapter, Sums) else self.adapter.nbytes
        large = len(lacking) > MOST_SUMS or sum(len(entry.data) for entry in lacking) > whole
        return self.adapter if large else Sums(base, lacking, self.digest)


class Downlink:
    """Which client keeps what, by node, as far as this session's replies have told."""

    def __init__(self) -> None:
        self._kept: dict[int, Kept] = {}

    def content(self, parcel: Parcel, node: int) -> RecordDict:
        """A node's instruction."""
        return parcel.content(self._kept.get(node))

    def note(self, parcel: Parcel, kept: Mapping[int, int]) -> None:
        """Remember what nodes said that they keep after an answer to the parcel's instruction."""
        for node, last in kept.items():
            if 0 <= last <= max(0, parcel.task.round - 1):
                self._kept[node] = Kept(parcel.name, last)
            else:
                self._kept.pop(node, None)

    def forget(self, nodes: Iterable[int]) -> None:
        """Nodes that lack what they were thought to keep."""
        for node in nodes:
            self._kept.pop(node, None)
