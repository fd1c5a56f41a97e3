"""The clients that are there: waiting for them, asking them, sorting what they answer."""

import logging
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from flwr.app import Message, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import UnexpectedObjectContentError
from google.protobuf.message import DecodeError

from common.counts import count
from common.printable import printable
from common.privacy.mechanism import ReleaseTerms, check_release
from common.wire.records import (
    group_of,
    is_lack,
    kept_by,
    reply_failure,
    round_of,
    serialized_bytes,
    unpack_release,
)
from common.wire.secure import KEYS, PEERS, REPAIR
from server_app.errors import CommandError
from server_app.log import log_event
from server_app.results.tracking import counted, phase, watched

_NOBODY = 0  # no node has this id
_LATE = "no reply in time (node lost, or slower than federation.round-timeout)"
_LACKS = "it lacks what its instruction left out, though it was asked again with everything"
_POLL_SECONDS = 0.5
_UNREADABLE = (  # what Flower's parser raises on replies that no honest SuperNode makes; a lost connection is none
    *(AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError),
    *(DecodeError, UnexpectedObjectContentError),
)
_LOST = {ErrorCode.MESSAGE_UNAVAILABLE, ErrorCode.REPLY_MESSAGE_UNAVAILABLE, ErrorCode.NODE_UNAVAILABLE}
_TTL_BITS = 43  # of a second; as many as a float has behind its point up to 1,023 seconds
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.03, 1.0  # seconds between two looks for replies


class FederationError(CommandError):
    """Too few clients connected or replied; the message says how many, and why they failed."""


@dataclass(frozen=True)
class Replies:
    """What came back from one question: valid releases of the cohort by node, reasons of its failures, bytes.

    ``answered``: replies that are counted in ``bytes_up``, those of cover traffic among them; of a client that lacked
    something there are two. ``silent``: who of those that were asked gave no answer of its own, be it that none came or
    that the SuperLink answered for it.
    ``kept``: what each client that answered says that it keeps (``pack_release``).
    """

    releases: dict[int, np.ndarray]
    failures: dict[int, str]
    bytes_up: int
    answered: int
    silent: frozenset[int] = frozenset()
    kept: Mapping[int, int] = field(default_factory=dict)

    @property
    def commonest_failure(self) -> str:
        """The reason that most failures gave, with its count; ``""`` when none failed."""
        reasons = list(self.failures.values())
        if not reasons:
            return ""
        reason = max(set(reasons), key=reasons.count)
        return f"{reason} ({reasons.count(reason)} of {len(reasons)} failures)"


@dataclass
class Instruction:
    """One instruction for every member of a cohort; answers are matched against it.

    ``covered``: the clients outside the cohort that are asked as well, so that being asked tells nothing. Their answers
    are noise around nothing. They are counted, judged like any other, and dropped: the sum then has the noise of the
    cohort's replies and of the server's top-up, exactly what is charged, while one share for each of M clients would be
    more than the public number of shares (``combine``), or in ``local`` trust M times the noise. ``reader``: what a
    reply's content is read with, where it is no release under ``terms`` by itself: the values, and what its sender
    keeps. ``dress``: what makes an instruction of a node's content, where that is none by itself. ``scores``: whether
    it asks for scores of the adapter that its ``round`` would start from.
    """

    round: int
    terms: ReleaseTerms
    cohort: Sequence[int]
    raw: bool = False
    covered: Sequence[int] = ()
    bytes_down: int = 0
    messages: list[Message] = field(default_factory=list)
    reader: Callable[[RecordDict], tuple[np.ndarray, int]] | None = None
    dress: Callable[[RecordDict], RecordDict] | None = None
    scores: bool = False

    @property
    def told(self) -> int:
        """The round that events tell of it: for scores the one after which they are asked, 0 for the base model."""
        return self.round - 1 if self.scores else self.round

    @property
    def asked(self) -> list[int]:
        """Everybody who gets a message, in an order that does not depend on who is in the cohort."""
        return sorted([*self.cohort, *self.covered])

    def dressed(self, content: RecordDict) -> RecordDict:
        """A node's content as it goes out."""
        return self.dress(content) if self.dress else content

    def address(
        self,
        content_of: Callable[[int], RecordDict],
        message_type: str,
        ttl: float,
        nodes: Sequence[int] | None = None,
    ) -> list[Message]:
        """One message for each member with a node's content, and as cover for each client outside the cohort.

        ``nodes``: the only ones that are sent one, which may be their second. All are made at one time, as they say
        themselves: by some microseconds between their own instructions, two clients that pool what they know told in
        388 of 400 rounds whether a third, between them, was asked. How long it is valid differs at random, below half a
        second: Flower gives any client what has a name, which is a hash of all that a message says, so another's could
        be made of one's own, as cover and as none, and asked for.
        """
        members, made = set(self.cohort), list[Message]()
        dressed: dict[int, RecordDict] = {}
        for node in self.asked if nodes is None else nodes:
            content = content_of(node)
            content = dressed.get(id(content)) or dressed.setdefault(id(content), self.dressed(content))
            self.bytes_down += serialized_bytes(content)
            valid = ttl + secrets.randbits(_TTL_BITS - 1) / 2**_TTL_BITS
            place = group_of(self.round, cover=node not in members)
            made.append(Message(content, dst_node_id=node, message_type=message_type, ttl=valid, group_id=place))
        for message in made:
            message.metadata.created_at = made[0].metadata.created_at
        self.messages = [*self.messages, *made]
        return made

    def lacking(self, replies: Sequence[Message]) -> list[int]:
        """Who of those that were asked lacks what its instruction left out."""
        sender = senders(self.messages)
        nodes = {sender(reply) for reply in replies if is_lack(reply, self.round)}
        return [node for node in self.asked if node in nodes]

    def sort(self, replies: Sequence[Message]) -> Replies:
        """Valid releases (one a node at most) and, for every other member of the cohort, why it has none.

        Of a covered client a reply counts by its bytes alone; that it has failed is logged, and nobody waits for more.

        Whose a reply is follows from the instruction that it answers, once these have been sent and have names: what
        it says of its sender is the sender's own word, and for a lost node the SuperLink signs with its own id. Replies
        that are nobody's, or of a node whose release counts, are dropped; the log has each.
        """
        answers: dict[int, np.ndarray | None] = {}  # of covered clients only that there is one
        members, expected = set(self.cohort), self.asked
        refused: list[tuple[int, int, str]] = []  # node, who it says it is, reason
        kept: dict[int, int] = {}
        spoke = set[int]()  # whoever gave an answer of its own
        counted, sender_of = list[Message](), senders(self.messages)
        for reply in replies:
            node = sender_of(reply)
            if not _is_lost(reply):
                spoke.add(node)
            if is_lack(reply, self.round) and node in expected:
                counted.append(reply)
                refused.append((node, node, _LACKS))
                continue
            try:
                values, keeps = self._open(reply, node, expected, answers)
            except Exception as refusal:  # whatever is wrong with one reply, the others count
                refused.append((node, reply.metadata.src_node_id, printable(_reason(refusal))))
                continue
            answers[node] = values if node in members else None
            kept[node] = keeps
            counted.append(reply)
        failures = {node: _LATE for node in expected if node not in answers}
        for node, sender, reason in refused:
            if node in failures:
                failures[node] = reason
            elif reason != _LACKS:
                of = node or sender
                log_event("reply_dropped", level=logging.WARNING, round=self.told, node=of, reason=reason)
        for node, reason in failures.items():
            log_event("node_failed", level=logging.WARNING, round=self.told, node=node, reason=reason)
        releases = {node: values for node, values in answers.items() if values is not None}
        of_members = {node: reason for node, reason in failures.items() if node in members}
        bytes_up = sum(serialized_bytes(reply.content) for reply in counted)
        return Replies(releases, of_members, bytes_up, len(counted), frozenset(failures.keys() - spoke), kept)

    def _open(
        self, reply: Message, node: int, asked: Sequence[int], answers: Mapping[int, object]
    ) -> tuple[np.ndarray, int]:
        """The release in a reply, and what its sender keeps; ``ValueError`` says why it cannot be used."""
        failure = reply_failure(reply)
        if failure:
            raise ValueError(failure)
        if node not in asked:
            raise ValueError(f"it answers no instruction of round {self.told}")
        if node in answers:
            raise ValueError(f"node {node} replied twice")
        if self.reader is not None:
            return self.reader(reply.content)
        values = unpack_release(reply.content, self.round, self.terms)
        if not self.raw:
            check_release(values, self.terms)
        return values, kept_by(reply.content)


def _reason(refusal: Exception) -> str:
    return str(refusal) if isinstance(refusal, ValueError) else f"unreadable: {type(refusal).__name__}: {refusal}"


def senders(messages: Iterable[Message]) -> Callable[[Message], int]:
    """Whose a reply is: by which of ``messages`` it answers once these have names, else by what it says."""
    asked = {sent.metadata.message_id: sent.metadata.dst_node_id for sent in messages}
    asked.pop("", None)
    if not asked:
        return lambda reply: reply.metadata.src_node_id
    return lambda reply: asked.get(reply.metadata.reply_to_message_id, _NOBODY)


def own_answers(replies: Iterable[Message]) -> list[Message]:
    """The replies that clients gave, errors included; not the errors that the SuperLink gives for one that is lost."""
    return [reply for reply in replies if not _is_lost(reply)]


def _is_lost(reply: Message) -> bool:
    """Whether the SuperLink says that there will be none. In one process its id is a client's too, hence the code."""
    by_superlink = reply.metadata.src_node_id == SUPERLINK_NODE_ID
    return by_superlink and reply.has_error() and reply.error.code in _LOST


def connect(grid: Grid, expected: int, timeout: float, say: Callable[[str], None]) -> list[int]:
    """Wait until ``expected`` clients are connected (0: at least one) and return all their node ids, sorted.

    Raises ``FederationError`` when fewer have come after ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    nodes = sorted(grid.get_node_ids())
    wanted = max(expected, 1)
    if len(nodes) < wanted:
        say(f"waiting for clients: {len(nodes)} of {wanted} connected")
    while len(nodes) < wanted:
        if time.monotonic() > deadline:
            fewer = ", or set federation.num-clients = 0" if expected else ""
            raise FederationError(
                f"federation.num-clients = {expected}: only {count(len(nodes), 'client')} connected within "
                f"{timeout:.0f} s (federation.connect-timeout). {start_more(wanted)}{fewer}"
            )
        time.sleep(_POLL_SECONDS)
        nodes = sorted(grid.get_node_ids())
    return nodes


def start_more(wanted: int) -> str:
    """What helps where fewer clients than ``wanted`` are connected."""
    return f"Start more SuperNodes (in simulation: --federation-config 'num-supernodes={wanted}')"


def exchange(
    grid: Grid,
    messages: Sequence[Message],
    timeout: float,
    in_flight: int,
    say: Callable[[str], None] = print,
    *,
    scores: bool = False,
) -> list[Message]:
    """Send instructions, at most ``in_flight`` outstanding at a time (0: all), and gather replies for ``timeout`` s.

    What takes longer than some seconds is told through ``say``, with the replies so far. ``scores``: whether they are
    of a private evaluation, which a second leg does not say by itself.
    """
    step = _step_of(messages[0], scores=scores) if messages else "round"
    with watched(f"{step}, replies", say), phase(step):
        return _exchange(grid, messages, timeout, in_flight)


def _step_of(message: Message, *, scores: bool) -> str:
    """What a message belongs to, for people."""
    kind, number = message.metadata.message_type, round_of(message)
    if kind in {KEYS, PEERS}:
        return "key set-up"
    step = "stage 1" if number == 0 else f"round {number}"
    if scores:  # of the adapter that the round would start from
        step = f"evaluation after round {number - 1}"
    return f"{step}, once more without the missing" if kind == REPAIR else step


def _exchange(grid: Grid, messages: Sequence[Message], timeout: float, in_flight: int) -> list[Message]:
    """What ``exchange`` does.

    Flower's simulation engine compares every outstanding instruction with every node again and again, so many nodes
    are served faster through a small window. It looks again after a tenth of the time since the last reply.
    """
    started = last_reply = time.monotonic()
    unsent, waiting_for = list(messages), set[str]()
    replies: list[Message] = []
    tell = counted("replies", len(messages))
    while unsent or waiting_for:
        room = max(0, in_flight - len(waiting_for)) if in_flight else len(unsent)
        batch, unsent = unsent[:room], unsent[room:]
        if batch:
            waiting_for.update(name for name in grid.push_messages(batch) if name)  # None: could not be sent
        came = _pull(grid, waiting_for) if waiting_for else []
        waiting_for.difference_update(reply.metadata.reply_to_message_id for reply in came)
        replies += came
        tell(len(own_answers(replies)))
        now = time.monotonic()
        if now > started + timeout:
            break
        last_reply = now if came else last_reply
        if waiting_for:
            time.sleep(min(max((now - last_reply) / 10, _SHORTEST_PAUSE), _LONGEST_PAUSE))
    return replies


def _pull(grid: Grid, names: set[str]) -> list[Message]:
    """The replies that have come; none when Flower cannot read one of them.

    It parses replies before this app sees any, and an exception there would end the run. Those that were fetched
    together with the unreadable one are lost: the SuperLink answers for all of them with an error the next time.
    """
    try:
        return list(grid.pull_messages(names))
    except _UNREADABLE as error:
        log_event("replies_unreadable", level=logging.WARNING, error=type(error).__name__, reason=printable(str(error)))
        return []
