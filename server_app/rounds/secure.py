"""Secure aggregation, server side: keys at the start of a run, sums of masked answers, a second leg for the missing.

What the server can read is a sum over all that answered, with at least the noise that was charged. Too few answers, or
a second leg that not everybody answers, and the round is lost: it was charged, and no step is taken. Nobody's row or
coin decides that: clients answer at equal length and in equal time whatever their coin says.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from flwr.app import Message, RecordDict
from numpy.typing import NDArray

from common.config import PrivacyConfig
from common.counts import count
from common.printable import printable
from common.privacy.mechanism import ReleaseTerms, check_sum
from common.secure.directory import Directory, to_bitmap
from common.secure.keys import KEY_BYTES, SITE_BYTES, agree, new_private_key
from common.secure.masks import centered, total_of
from common.wire.digest import app_digest
from common.wire.records import release_bytes, reply_failure, serialized_bytes
from common.wire.secure import (
    KEYS,
    NEEDS_KEYS,
    PEERS,
    REPAIR,
    SecureTask,
    bits_of,
    pack_directory,
    pack_key,
    pack_known,
    pack_masked,
    pack_repair,
    pack_request,
    unpack_key,
    unpack_known,
    unpack_masked,
    with_secure,
)
from server_app.log import log_event
from server_app.rounds.availability import Attendance
from server_app.rounds.cohort import FederationError, Instruction, Replies
from server_app.rounds.round import Heard, Repair

Ask = Callable[[list[Message]], list[Message]]
"""Messages to the replies that came in time."""
_SET_UPS = 3  # attempts in a row, before a run ends over it
_T = TypeVar("_T")


@dataclass
class SecureAggregation:
    """The server's side in one run.

    Attributes:
        nodes: the enrolled clients.
        privacy: coins, drop-outs.
        ttl: seconds that a message is valid.
        members: the node at each place of the directory; empty before the first set-up.
        ready: members that have said that they know the directory, and have not said since that they do not.

    """

    nodes: Sequence[int]
    privacy: PrivacyConfig
    ttl: float
    members: list[int] = field(default_factory=list)
    ready: set[int] = field(default_factory=set)
    _tried: set[int] = field(default_factory=set)

    @property
    def least(self) -> int:
        """Fewest clients whose messages carry the noise that is charged, drop-outs and colluders taken off."""
        return len(self.nodes) - self.privacy.dropouts

    def make_ready(self, ask: Ask, online: set[int]) -> None:
        """Give pair secrets to all that are online, where some lack them who were not asked before or have lost them.

        ``FederationError`` where too few clients have any then.
        """
        self._tried &= online
        if self.members and online <= self._tried:
            return
        for _ in range(_SET_UPS):
            self._set_up(ask, sorted(online & set(self.nodes)))
            if len(self.ready) >= self.least:
                return
        raise FederationError(
            f"key set-up of secure aggregation: {len(self.members)} of {count(len(self.nodes), 'client')} sent a key, "
            f"{len(self.ready)} have secrets with the others, {self.least} are needed (privacy.dropouts); events.jsonl "
            "says why the others did not. Nothing was charged for it"
        )

    def instruction(
        self,
        server_round: int,
        terms: ReleaseTerms,
        exchange: int,
        rate: float,
        away: set[int],
        *,
        scores: bool = False,
    ) -> Instruction:
        """To everybody who has keys and is not ``away`` (or to all, if these are too few); still to be addressed.

        ``scores``: it asks for scores of the adapter that the round would start from.
        What their masks depend on is the same for all (``context_of``); what each of them lacks is not.
        """
        present = self.ready - away
        present = present if len(present) >= self.least else self.ready
        task = SecureTask(exchange, rate, self.least, self._bitmap(present))
        bits = bits_of(terms)
        return Instruction(
            server_round, terms, sorted(present),
            reader=lambda reply: unpack_masked(reply, exchange, terms.size, bits),
            dress=lambda content: with_secure(content, task),
            scores=scores,
        )  # fmt: skip

    def hear(self, instruction: Instruction, exchange: int, replies: Sequence[Message], ask: Ask) -> Heard:
        """The sum of what was replied to an instruction, or why there is none."""
        found = instruction.sort(replies)
        self._note(found)
        if len(found.releases) < self.least:
            came = f"{len(found.releases)} of {count(len(self.nodes), 'client')} replied"
            return Heard(found, f"{came}, {self.least} are needed (privacy.dropouts)")
        repair = None
        if len(found.releases) < len(instruction.cohort):
            repair = self._repair(instruction, sorted(found.releases), exchange, ask)
            helped = len(repair.replies.releases)
            if helped < len(found.releases):
                survivors = count(len(found.releases), "client")
                few = f"{helped} of {survivors} helped to do without the missing, all are needed"
                return Heard(found, few, repair)
        try:
            return Heard(found, "", repair, _sum(instruction.terms, repair.replies if repair else found))
        except ValueError as fault:
            return Heard(found, str(fault), repair)

    def _repair(self, instruction: Instruction, survivors: list[int], exchange: int, ask: Ask) -> Repair:
        """The same among the survivors alone; each of them is needed."""
        again = Instruction(
            instruction.round, instruction.terms, survivors, reader=instruction.reader, scores=instruction.scores
        )
        wanted = pack_repair(exchange, self._bitmap(set(survivors)))
        messages = again.address(lambda _: wanted, REPAIR, self.ttl)
        missing = len(instruction.cohort) - len(survivors)
        log_event("round_repaired", round=instruction.told, missing=missing)
        found = again.sort(ask(messages))
        self._note(found)
        return Repair(again, found)

    def _set_up(self, ask: Ask, online: list[int]) -> None:
        """Two legs: keys up, the directory down."""
        log_event("keys_started", round=0, clients=len(online))
        self._tried = set(online)
        keys = self._told(ask, {node: pack_request(app_digest()) for node in online}, KEYS, _read_key)
        own = [key for key, _ in keys.values()]
        self.members = sorted(node for node, (key, _) in keys.items() if own.count(key) == 1)
        self.ready = set()
        if len(self.members) < max(2, self.least):
            return
        directory = Directory(tuple(keys[node] for node in self.members))
        content = pack_directory(directory, app_digest())
        known = self._told(ask, dict.fromkeys(self.members, content), PEERS, unpack_known)
        self.ready = {node for node, digest in known.items() if digest == directory.digest}
        log_event("keys_known", round=0, clients=len(self.ready))

    def _told(
        self, ask: Ask, contents: dict[int, RecordDict], kind: str, read: Callable[[RecordDict], _T]
    ) -> dict[int, _T]:
        messages = [
            Message(content=content, dst_node_id=node, message_type=kind, ttl=self.ttl, group_id="0")
            for node, content in contents.items()
        ]
        replies = ask(messages)
        held = [serialized_bytes(reply.content) for reply in replies if not reply.has_error()]
        log_event(
            "keys_exchanged", round=0, asked=len(messages), answered=len(held),
            bytes_down=sum(serialized_bytes(content) for content in contents.values()), bytes_up=sum(held),
        )  # fmt: skip
        asked = {message.metadata.message_id: message.metadata.dst_node_id for message in messages}
        found: dict[int, _T] = {}
        for reply in replies:
            node = asked.get(reply.metadata.reply_to_message_id)
            if node is None or node in found:
                continue
            try:
                failure = reply_failure(reply)
                if failure:
                    raise ValueError(failure)
                found[node] = read(reply.content)
            except Exception as refusal:  # whatever is wrong with one reply, the others count
                reason = printable(str(refusal))
                log_event("node_failed", level=logging.WARNING, round=0, node=node, reason=reason)
        return found

    def _note(self, replies: Replies) -> None:
        """Who says that it has no secrets gets new ones before the next round, and so does everybody."""
        lacking = {node for node, reason in replies.failures.items() if NEEDS_KEYS in reason}
        self.ready -= lacking
        self._tried -= lacking

    def _bitmap(self, nodes: set[int]) -> bytes:
        return to_bitmap({place for place, node in enumerate(self.members) if node in nodes}, len(self.members))


def _read_key(content: RecordDict) -> tuple[bytes, bytes]:
    """A member's entry; ``ValueError`` for a key that no secret can be agreed on with: others would fail over it."""
    key, site = unpack_key(content)
    agree(new_private_key(), key)
    return key, site


def secure_aggregation(privacy: PrivacyConfig, attendance: Attendance, timeout: float) -> SecureAggregation | None:
    """The server's side, where ``privacy.trust`` asks for it; ``attendance`` then waits for as many as it needs."""
    if privacy.trust != "secure":
        return None
    found = SecureAggregation(attendance.nodes, privacy, timeout)
    attendance.least = found.least
    return found


def masked_instruction(content: RecordDict, privacy: PrivacyConfig, clients: int) -> RecordDict:
    """An instruction as large as one of a round that asks all of ``clients``."""
    everybody = to_bitmap(set(range(clients)), clients)
    return with_secure(content, SecureTask(1, privacy.sampling_rate, clients - privacy.dropouts, everybody))


def set_up_bytes(clients: int) -> tuple[int, int]:
    """Serialized bytes up and down of one of ``clients`` in a key set-up that all of them take part in."""
    members = tuple((place.to_bytes(KEY_BYTES, "big"), bytes(SITE_BYTES)) for place in range(clients))
    directory, digest = Directory(members), app_digest()
    up = (pack_key(*members[0]), pack_known(directory.digest))
    down = (pack_request(digest), pack_directory(directory, digest))
    return sum(map(serialized_bytes, up)), sum(map(serialized_bytes, down))


def bytes_of_answer(terms: ReleaseTerms, number: int = 1) -> int:
    """Size of one client's answer to round ``number`` under ``terms``, of the records as they are serialized."""
    if terms.trust == "secure":
        return serialized_bytes(pack_masked(np.zeros(terms.size, dtype=np.uint64), number, bits_of(terms)))
    return release_bytes(terms)


def _sum(terms: ReleaseTerms, replies: Replies) -> NDArray[np.int64]:
    """The noisy sum of the codes (grid steps), masks off; ``ValueError`` where they do not come off."""
    bits = bits_of(terms)
    answers = list(replies.releases.values())
    total = centered(total_of(answers, terms.size, bits), bits)
    check_sum(total, terms, len(answers))
    return total
