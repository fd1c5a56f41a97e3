"""A client's place in secure aggregation, kept in its Flower state: pair secrets of a run, and what it has answered.

Never twice in one exchange: its number must rise. The number goes with the state that Flower keeps; whoever brings an
old state back still meets what a site with its own data has written down (``exchange_file``), or, of a client without a
ledger, this process's memory (``_answered``). Not both: what is refused must not tell how long a process lives.
Everybody is masked with everybody: a server that chooses who is present can leave no message without masks.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, RecordDict
from numpy.typing import NDArray

from common.privacy.mechanism import ReleaseTerms
from common.secure.directory import from_bitmap
from common.secure.keys import KEY_BYTES, KeyFault, public_key
from common.secure.masks import Words, pair_masks, seed_of
from common.wire.assignment import Task
from common.wire.records import WireError
from common.wire.secure import NEEDS_KEYS, SecureTask, bits_of, context_of, repair_context

RECORD, AGAIN = "secure-seat", "secure-again"
_answered: dict[bytes, tuple[int, bool]] = {}


@dataclass(frozen=True)
class Seat:
    """What one client holds.

    Attributes:
        private: its run key, until the directory has come; no byte of it stays.
        public: the public half.
        place: its place in the directory, -1 before there is one.
        members: how many the directory has.
        secrets: a pair secret for each other member, in their order.
        last: number of the last exchange that it has answered, -1 before the first.
        repaired: whether it has helped to do without missing members in that one.
        asked: that exchange, for a repair: its context, who was present, fewest members, terms.

    """

    public: bytes
    private: bytes = field(default=b"", repr=False)
    place: int = -1
    members: int = 0
    secrets: tuple[bytes, ...] = field(default=(), repr=False)
    last: int = -1
    repaired: bool = False
    asked: str = ""

    @classmethod
    def of(cls, state: RecordDict) -> "Seat | None":
        """The seat in a client's state; ``None`` where it has none."""
        record = state.get(RECORD)
        if not isinstance(record, ConfigRecord):
            return None
        values: dict[str, Any] = dict(record)
        joined = values.pop("secrets")
        secrets = tuple(joined[start : start + KEY_BYTES] for start in range(0, len(joined), KEY_BYTES))
        return cls(**values | {"secrets": secrets})

    def keep(self, state: RecordDict, *, in_memory: bool = False) -> None:
        """Put it into the state, and if ``in_memory`` for good into this process's memory."""
        values = {part.name: getattr(self, part.name) for part in fields(self)} | {"secrets": b"".join(self.secrets)}
        state[RECORD] = ConfigRecord(values)
        if in_memory:
            _answered[self.public] = (self.last, self.repaired)

    @property
    def peers(self) -> list[int]:
        """All other members, in order."""
        return [member for member in range(self.members) if member != self.place]

    def seated(self, place: int, secrets: Sequence[bytes]) -> "Seat":
        """With a place in a directory, and the secrets of all others in order."""
        return replace(self, private=b"", place=place, members=len(secrets) + 1, secrets=tuple(secrets))

    def entered(self, task: Task, secure: SecureTask) -> "Seat":
        """After an exchange was accepted; ``WireError`` for one that must not be answered.

        All of it is a function of the instruction and of those before it.
        """
        if self.place < 0 or not self.secrets:
            raise WireError(f"this client {NEEDS_KEYS} run")
        if secure.exchange <= self._latest[0]:
            raise WireError(f"exchange {secure.exchange} is answered already, or an older one than that was")
        present = self._members(secure.present)
        if self.place not in present:
            raise WireError("this client is asked for a masked answer, and is not among those that are present")
        if not secure.least <= len(present) <= self.members <= task.terms.shares:
            raise WireError(
                f"{len(present)} of {self.members} members are asked, {secure.least} are enough, and noise is cut into "
                f"{task.terms.shares} shares: expected no fewer members than are enough, and no more than shares"
            )
        asked = {
            "context": context_of(task, secure).hex(), "present": secure.present.hex(), "least": secure.least,
            "round": task.round, "terms": asdict(task.terms),
        }  # fmt: skip
        return replace(self, last=secure.exchange, repaired=False, asked=json.dumps(asked))

    def masks(self) -> Words:
        """Its masks of the exchange that it has entered, with all that are present; shape ``[terms.size]``."""
        asked = Asked.of(self.asked)
        return self._masks(asked.context, self._members(asked.present), asked.terms)

    def repair(self, exchange: int, survivors: bytes) -> tuple["Seat", "Asked", Words]:
        """Masks of an exchange that is done again among those who answered it; shape ``[terms.size]``.

        ``WireError`` for what must not be answered.
        """
        if not self.asked or (exchange, False) != self._latest:
            raise WireError(f"this client {NEEDS_KEYS} repair: exchange {exchange} was not its last, or is repaired")
        asked = Asked.of(self.asked)
        there, before = self._members(survivors), self._members(asked.present)
        if not (self.place in there and there < before and len(there) >= asked.least):
            raise WireError(
                f"a repair of {len(there)} of {len(before)} members, {asked.least} needed: it must be of fewer than "
                "were asked, this client among them, and of enough"
            )
        masks = self._masks(repair_context(asked.context, survivors), there, asked.terms)
        return replace(self, repaired=True), asked, masks

    @property
    def _latest(self) -> tuple[int, bool]:
        return max((self.last, self.repaired), _answered.get(self.public, (-1, False)))

    def _members(self, bitmap: bytes) -> set[int]:
        try:
            return from_bitmap(bitmap, self.members)
        except KeyFault as fault:
            raise WireError(str(fault)) from None

    def _masks(self, context: bytes, others: set[int], terms: ReleaseTerms) -> Words:
        pairs = zip(self.peers, self.secrets, strict=True)
        seeds = ((peer, seed_of(secret, context)) for peer, secret in pairs if peer in others)
        return pair_masks(self.place, seeds, terms.size, bits_of(terms))


@dataclass(frozen=True)
class Asked:
    """An exchange as its seat remembers it."""

    context: bytes
    present: bytes
    least: int
    round: int
    terms: ReleaseTerms

    @classmethod
    def of(cls, text: str) -> "Asked":
        """From a seat's ``asked``."""
        told = json.loads(text)
        return cls(
            bytes.fromhex(told["context"]), bytes.fromhex(told["present"]), told["least"], told["round"],
            ReleaseTerms(**told["terms"]),
        )  # fmt: skip


def keep_again(state: RecordDict, exchange: int, values: NDArray[Any]) -> None:
    """Keep the second release of an answer (shape ``[size]``), should its exchange be done again; noise is on it."""
    state.pop(AGAIN, None)  # Flower warns of a record that is overwritten
    state[AGAIN] = ConfigRecord({"exchange": exchange, "type": values.dtype.str, "values": values.tobytes()})


def take_again(state: RecordDict, exchange: int) -> NDArray[np.int64]:
    """The second release of an exchange, which is kept no longer; ``WireError`` where there is none."""
    record = state.pop(AGAIN, None)
    if not isinstance(record, ConfigRecord) or record["exchange"] != exchange:
        raise WireError(f"this client {NEEDS_KEYS} repair: it keeps no second release of exchange {exchange}")
    kept: dict[str, Any] = dict(record)
    return np.frombuffer(kept["values"], kept["type"]).astype(np.int64)


def fresh_seat(private: bytes, before: Seat | None) -> Seat:
    """A seat with a new run key; the number of the last exchange stays."""
    return Seat(public_key(private), private, last=before.last if before else -1)
