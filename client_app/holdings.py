"""What a client keeps of a run's instructions, so that they need not be sent again: the assignment and the sums.

It is in the client's Flower state, which comes with every message and goes back with every answer, so it does not
depend on which process answers, nor on whether one has died over a long example. What is kept follows from what was
asked, never from data: that a client lacks something may be told. Simulated clients hold nobody's data and share their
processes; what is large they keep there once, instead of each in its state.
"""

from collections.abc import Sequence
from typing import Any

from flwr.app import ConfigRecord, RecordDict

from common.wire.sums import Entry, joined, split_sums

RECORD = "held"
_LARGE = 1 << 16  # bytes
_MOST_SHARED = 4
_shared: dict[bytes, bytes] = {}  # assignments of simulated clients by name, the last ones


class Holdings:
    """What one client keeps in its Flower ``state``; ``simulated``: large assignments are kept by the process."""

    def __init__(self, state: RecordDict, *, simulated: bool) -> None:
        self._state, self._simulated = state, simulated

    def assignment(self, name: bytes) -> bytes | None:
        """The assignment of a name, if it is kept."""
        held = self._held()
        if held.get("name") != name:
            return None
        found = held.get("assignment")
        return found if isinstance(found, bytes) else _shared.get(name)

    def sums(self, name: bytes, until: int) -> list[Entry] | None:
        """The kept sums of the rounds up to ``until`` under an assignment; ``None`` where they may be too few."""
        held = self._held()
        if not until:
            return []
        data, last = held.get("sums"), held.get("last")
        if held.get("name") != name or not isinstance(data, bytes) or not isinstance(last, int) or last < until:
            return None
        try:
            return [entry for entry in split_sums(data) if entry.round <= until]
        except ValueError:
            return None

    def keep(self, name: bytes, assignment: bytes | None, entries: Sequence[Entry] | None, last: int) -> int:
        """Keep an assignment (``None``: it is kept already), and sums up to round ``last`` (``None``: those there are).

        Returns what a reply says of it: the last round whose sum is kept, 0 for none.
        """
        held = self._held()
        if entries is not None:
            data = joined(entries)
        elif held.get("name") == name:
            data, last = held.get("sums", b""), held.get("last", 0)
        else:
            data, last = b"", 0
        new: dict[str, Any] = {"name": name, "sums": data, "last": last}
        if assignment is None:
            new |= {"assignment": held["assignment"]} if "assignment" in held else {}
        elif self._simulated and len(assignment) > _LARGE:
            _share(name, assignment)
        else:
            new["assignment"] = assignment
        if new != held:
            self._state.pop(RECORD, None)  # Flower warns of a record that is overwritten
            self._state[RECORD] = ConfigRecord(new)
        return int(last)

    def _held(self) -> dict[str, Any]:
        record = self._state.get(RECORD)
        return dict(record) if isinstance(record, ConfigRecord) else {}


def _share(name: bytes, assignment: bytes) -> None:
    _shared.pop(name, None)
    _shared[name] = assignment
    while len(_shared) > _MOST_SHARED:
        _shared.pop(next(iter(_shared)))
