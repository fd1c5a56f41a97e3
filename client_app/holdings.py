"""What a client keeps of a run's instructions, so that they need not be sent again: the assignment and a trail.

It is in the client's Flower state, which comes with every message and goes back with every answer, so it does not
depend on which process answers, nor on whether one has died over a long example. What is kept follows from what was
asked, never from data: that a client lacks something may be told. Simulated clients hold nobody's data and share their
processes; what is large they keep there once, instead of each in its state.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

from flwr.app import ConfigRecord, RecordDict

from common.wire.sums import Entry, joined, split_sums

RECORD = "held"
_LARGE = 1 << 16  # bytes
_MOST_SHARED, _MOST_SHARED_BYTES = 4, 1 << 26  # the last ones; more of them while they are small
_NAME_BYTES = 16
_shared: dict[bytes, bytes] = {}  # assignments and snapshots of simulated clients by name


@dataclass(frozen=True)
class Trail:
    """What an adapter follows from.

    Attributes:
        entries: sums of rounds, in their order.
        snapshot: the state that their steps are taken from (``AdapterOptimizer.snapshot``), as bytes; empty: the run's
            initial adapter, which the seed gives.
        since: the round that the snapshot was taken after.

    """

    entries: Sequence[Entry] = ()
    snapshot: bytes = b""
    since: int = 0

    def further(self, entries: Sequence[Entry]) -> "Trail":
        """With sums of later rounds."""
        return replace(self, entries=[*self.entries, *(entry for entry in entries if entry.round > self.since)])


class Holdings:
    """What one client keeps in its Flower ``state``; ``simulated``: large assignments are kept by the process."""

    def __init__(self, state: RecordDict, *, simulated: bool) -> None:
        self._state, self.simulated = state, simulated

    def assignment(self, name: bytes) -> bytes | None:
        """The assignment of a name, if it is kept."""
        held = self._held()
        if held.get("name") != name:
            return None
        found = held.get("assignment")
        return found if isinstance(found, bytes) else _shared.get(name)

    def trail(self, name: bytes, until: int) -> Trail | None:
        """What the adapter after round ``until`` follows from under an assignment; ``None``: some may be lacking."""
        held = self._held()
        if not until:
            return Trail()
        data, last = held.get("sums"), held.get("last")
        if held.get("name") != name or not isinstance(data, bytes) or not isinstance(last, int) or last < until:
            return None
        snapshot = held.get("snapshot", b"") or _shared.get(held.get("snapshot-name", b""))
        snapshot = snapshot if "snapshot-name" in held else b""
        if snapshot is None:
            return None
        try:
            return Trail((), snapshot, int(held["since"])).further([e for e in split_sums(data) if e.round <= until])
        except ValueError:
            return None

    def keep(self, name: bytes, assignment: bytes | None, trail: Trail | None, last: int) -> int:
        """Keep an assignment (``None``: it is kept already), and a trail up to round ``last`` (``None``: it has none).

        Returns what a reply says of it: the last round that the trail leads to, 0 for none.
        """
        held = self._held()
        new: dict[str, Any] = {"name": name, "sums": b"", "last": 0}
        if trail is not None:
            new |= {"sums": joined(trail.entries), "last": last, "since": trail.since} | self._snapshot(trail.snapshot)
        if assignment is None:
            new |= {"assignment": held["assignment"]} if "assignment" in held else {}
        else:
            new |= self._part("assignment", assignment, name)
        if new != held:
            self._state.pop(RECORD, None)  # Flower warns of a record that is overwritten
            self._state[RECORD] = ConfigRecord(new)
        return int(new["last"])

    def _snapshot(self, data: bytes) -> dict[str, Any]:
        name = blake2b(data, digest_size=_NAME_BYTES).digest()
        return {"snapshot-name": name} | self._part("snapshot", data, name) if data else {}

    def _part(self, field: str, data: bytes, name: bytes) -> dict[str, Any]:
        """What goes into the state of something that may be large."""
        if self.simulated and len(data) > _LARGE:
            _share(name, data)
            return {}
        return {field: data}

    def _held(self) -> dict[str, Any]:
        record = self._state.get(RECORD)
        return dict(record) if isinstance(record, ConfigRecord) else {}


def _share(name: bytes, assignment: bytes) -> None:
    _shared.pop(name, None)
    _shared[name] = assignment
    while len(_shared) > _MOST_SHARED and sum(map(len, _shared.values())) > _MOST_SHARED_BYTES:
        _shared.pop(next(iter(_shared)))
