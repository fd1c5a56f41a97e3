"""Waiting for clients, and sorting what they answer."""

import functools
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Error, Message, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID

from common.privacy.mechanism import ReleaseTerms
from common.wire.records import TRAIN, pack_release, serialized_bytes
from server_app.log import read_events, recording
from server_app.results.tracking import watched
from server_app.rounds.cohort import FederationError, Instruction, connect, exchange, own_answers
from workbench.simulation.in_process import InProcessGrid

ROUND = 3
TERMS = ReleaseTerms(8, 1.0, 1.0, "local", 4, normalize=True)
CLEAR = ReleaseTerms(8, 1.0, 0.0, "central", 4, normalize=True)
CODE = np.arange(8).astype(TERMS.dtype)
FAR = pack_release(CODE, ROUND, TERMS)
FAR["release"]["code"] = b"\xff" * len(FAR["release"]["code"])  # type: ignore[index, arg-type, operator]


class Mailbox:
    """Makes replies as a grid would return them."""

    def __init__(self) -> None:
        InProcessGrid(None, {}, 0)  # type: ignore[arg-type]  # registers this process as a task, as messages need
        self.question = Instruction(ROUND, TERMS, [11, 12, 13])
        self.question.address(lambda _: RecordDict(), TRAIN, 60.0)
        self._numbers = itertools.count()

    def reply(self, node: int, content: RecordDict | Error | None = None) -> Message:
        asked = Message(content=RecordDict(), dst_node_id=node, message_type=TRAIN, ttl=60.0)
        metadata: Any = asked.metadata
        metadata.__dict__["_message_id"] = f"asked-{next(self._numbers)}"
        return Message(pack_release(CODE, ROUND, TERMS) if content is None else content, reply_to=asked)


@pytest.fixture
def box() -> Mailbox:
    return Mailbox()


LOST = "no reply in time (node lost, or slower than federation.round-timeout)"


def test_one_message_goes_to_every_member_of_the_cohort(box: Mailbox) -> None:
    content = RecordDict()
    question = Instruction(ROUND, TERMS, [11, 12, 13])
    messages = question.address(lambda _: content, TRAIN, 7.0)
    assert [message.metadata.dst_node_id for message in messages] == [11, 12, 13]
    assert all(7.0 <= message.metadata.ttl < 7.5 for message in messages)
    assert {message.metadata.message_type for message in messages} == {TRAIN}
    assert question.bytes_down == 3 * serialized_bytes(content)


def test_valid_replies_are_releases_by_node_and_bytes(box: Mailbox) -> None:
    replies = [box.reply(node) for node in (13, 11, 12)]
    found = box.question.sort(replies)
    assert sorted(found.releases) == [11, 12, 13]
    assert all(np.array_equal(values, CODE) for values in found.releases.values())
    assert found.failures == {}
    assert found.commonest_failure == ""
    assert found.bytes_up == 3 * serialized_bytes(replies[0].content)


def test_who_does_not_reply_is_late(box: Mailbox) -> None:
    assert box.question.sort([box.reply(12)]).failures == {11: LOST, 13: LOST}


def test_an_error_reply_gives_its_last_line_as_reason(box: Mailbox) -> None:
    error = Error(0, "Traceback\n  File x\nConfigError: no data at this site\n")
    found = box.question.sort([box.reply(11), box.reply(12, error)])
    assert found.failures[12] == "ConfigError: no data at this site"
    assert sorted(found.releases) == [11]


def test_an_error_without_text_gives_its_code(box: Mailbox) -> None:
    assert box.question.sort([box.reply(12, Error(8))]).failures[12] == "error code 8"


@pytest.mark.parametrize("reason", [" ", "\n", "\x0b", "\u2028", "\r\n \t"])
def test_an_error_of_white_space_gives_its_code_and_ends_no_run(box: Mailbox, reason: str) -> None:
    found = box.question.sort([box.reply(12, Error(8, reason)), box.reply(11)])
    assert found.failures[12] == "error code 8"
    assert sorted(found.releases) == [11]


def test_whatever_is_wrong_with_one_reply_the_others_count(box: Mailbox) -> None:
    """What reads a reply may have a fault of its own: it is that reply's, not the round's."""

    def reader(content: RecordDict) -> tuple[np.ndarray, int]:
        if content is bad.content:
            raise RecursionError("deep")
        return CODE, 0

    bad = box.reply(12)
    box.question.reader = reader
    found = box.question.sort([bad, box.reply(11)])
    assert found.failures[12] == "unreadable: RecursionError: deep"
    assert sorted(found.releases) == [11]


def test_a_second_reply_of_a_node_is_ignored(box: Mailbox) -> None:
    other = pack_release(CODE[::-1].copy(), ROUND, TERMS)
    found = box.question.sort([box.reply(11), box.reply(11, other), box.reply(12), box.reply(13)])
    assert np.array_equal(found.releases[11], CODE)
    assert len(found.releases) == 3
    assert found.bytes_up == 3 * serialized_bytes(other)


def test_a_node_that_was_not_asked_is_ignored(box: Mailbox) -> None:
    found = box.question.sort([box.reply(99)])
    assert found.releases == {}
    assert sorted(found.failures) == [11, 12, 13]


def test_every_reply_that_is_dropped_is_in_the_log_with_run_round_and_node(box: Mailbox, tmp_path: Path) -> None:
    """One too many, one that was not asked for, and one that could not be used although the next one could."""
    broken = pack_release(CODE[:5], ROUND, TERMS)
    replies = [box.reply(11), box.reply(11), box.reply(99), box.reply(12, broken), box.reply(12), box.reply(13, broken)]
    path = tmp_path / "events.jsonl"
    with recording(path, 7):
        found = box.question.sort(replies)
    assert sorted(found.releases) == [11, 12]
    told = [(event["event"], event["level"], event["run"], event["round"]) for event in read_events(path)]
    assert told == [("reply_dropped", "warning", 7, ROUND)] * 3 + [("node_failed", "warning", 7, ROUND)]
    assert [(event["node"], event["reason"][:27]) for event in read_events(path)] == [
        (11, "node 11 replied twice"),
        (99, "it answers no instruction o"),
        (12, "released code: 9 bytes, exp"),
        (13, "released code: 9 bytes, exp"),
    ]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (pack_release(CODE, ROUND - 1, TERMS), "reply belongs to round 2, expected 3"),
        (pack_release(CODE[:5], ROUND, TERMS), "released code: "),
        (pack_release(CODE.astype(np.float32), ROUND, CLEAR), "released code: 32 bytes, expected "),
        (RecordDict(), 'ConfigRecord "release" is missing'),
        (FAR, "a value is not out of"),
    ],
)
def test_a_malformed_reply_fails_alone(box: Mailbox, content: RecordDict, reason: str) -> None:
    found = box.question.sort([box.reply(11, content), box.reply(12), box.reply(13)])
    assert reason in found.failures[11]
    assert sorted(found.releases) == [12, 13]


@pytest.mark.parametrize("raw", [False, True])
def test_a_code_beyond_the_clip_norm_is_refused_unless_statistics_are_sent_in_the_clear(raw: bool) -> None:
    box = Mailbox()
    question = Instruction(ROUND, CLEAR, [11], raw=raw)
    found = question.sort([box.reply(11, pack_release(np.full(8, 0.36, dtype=np.float32), ROUND, CLEAR))])
    assert sorted(found.releases) == ([11] if raw else [])
    assert raw or "exceeds the clip norm, 1" in found.failures[11]


def test_a_reply_counts_for_the_node_whose_instruction_it_answers(box: Mailbox, tmp_path: Path) -> None:
    """Not for the one that it says it is of; and a lost node's error is signed by the SuperLink, whose id is 1."""
    for message in box.question.messages:
        message.metadata.__dict__["_message_id"] = f"to-{message.metadata.dst_node_id}"
    pretended, lost, stray = box.reply(13), box.reply(1, Error(5, "Error: Node Unavailable")), box.reply(13)
    for reply, name in ((pretended, "to-11"), (lost, "to-12"), (stray, "to-nobody")):
        reply.metadata.__dict__["_reply_to_message_id"] = name
    with recording(tmp_path / "events.jsonl", 7):
        found = box.question.sort([pretended, lost, stray])
    assert set(found.releases) == {11}
    assert found.failures == {12: "Error: Node Unavailable", 13: LOST}
    dropped = [event for event in read_events(tmp_path / "events.jsonl") if event["event"] == "reply_dropped"]
    assert [event["node"] for event in dropped] == [13], "who it says it is: nothing else is known of it"


def test_a_client_that_answers_with_an_error_is_not_silent_whatever_its_id(box: Mailbox) -> None:
    """In one process clients have the ids from 1 on, and 1 is how a SuperLink signs."""
    question = Instruction(ROUND, TERMS, [1, 2, 3])
    own = Error(0, "ValueError: broken")
    found = question.sort([box.reply(1, own), box.reply(2, own)])
    assert (set(found.failures), found.silent) == ({1, 2, 3}, {3})
    lost = box.reply(1, Error(5, "Error: Node Unavailable"))
    assert question.sort([lost]).silent == {1, 2, 3}
    assert own_answers([lost, box.reply(1, own)])[0].error.reason == "ValueError: broken"


def test_the_commonest_failure_is_counted(box: Mailbox) -> None:
    broken = Error(0, "ValueError: broken")
    found = box.question.sort([box.reply(11, broken), box.reply(13, broken)])
    assert found.commonest_failure == "ValueError: broken (2 of 3 failures)"


class Slow(InProcessGrid):
    """Clients connect one poll at a time."""

    def __init__(self, steps: list[list[int]]) -> None:
        self._steps = steps

    def get_node_ids(self) -> list[int]:
        return self._steps.pop(0) if len(self._steps) > 1 else self._steps[0]


@pytest.fixture(autouse=True)
def _fast_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server_app.rounds.cohort._POLL_SECONDS", 0.01)


def test_connecting_waits_until_all_are_there_and_sorts_them() -> None:
    said: list[str] = []
    assert connect(Slow([[5], [5, 2], [9, 5, 2]]), 3, 5.0, said.append) == [2, 5, 9]
    assert said == ["waiting for clients: 1 of 3 connected"]


def test_zero_clients_means_all_that_are_connected_but_at_least_one() -> None:
    assert connect(Slow([[], [7]]), 0, 5.0, lambda _: None) == [7]


def test_too_few_clients_are_told_with_what_to_do() -> None:
    with pytest.raises(FederationError) as failure:
        connect(Slow([[1, 2]]), 4, 0.05, lambda _: None)
    for part in ("federation.num-clients = 4", "only 2 clients", "federation.connect-timeout", "num-supernodes=4"):
        assert part in str(failure.value)
    assert str(failure.value).endswith(", or set federation.num-clients = 0")
    with pytest.raises(FederationError, match=r"num-supernodes=1'\)$"):
        connect(Slow([[]]), 0, 0.05, lambda _: None)


class Post(InProcessGrid):
    """Answers the oldest message at every look; the last ``lost`` are never answered, ``unsendable`` get no id.

    For the first ``given_up`` the SuperLink answers.
    """

    def __init__(self, lost: int = 0, unsendable: int = 0, given_up: int = 0) -> None:
        super().__init__(None, {}, 0)  # type: ignore[arg-type]
        self.lost, self.unsendable, self.given_up = lost, unsendable, given_up
        self.outstanding: dict[str, Message] = {}
        self.most_outstanding = self.sent = 0

    def push_messages(self, messages: Any) -> list[Any]:
        names: list[Any] = []
        for message in messages:
            self.sent += 1
            if self.sent <= self.unsendable:
                names.append(None)
                continue
            names.append(f"message-{self.sent}")
            message.metadata.__dict__["_message_id"] = names[-1]
            self.outstanding[names[-1]] = message
        self.most_outstanding = max(self.most_outstanding, len(self.outstanding))
        return names

    def pull_messages(self, message_ids: Any) -> list[Message]:
        asked = set(message_ids)
        assert asked == set(self.outstanding)
        if len(asked) <= self.lost:
            return []
        asked = self.outstanding.pop(next(iter(self.outstanding)))
        if not self.given_up:
            return [Message(RecordDict(), reply_to=asked)]
        self.given_up -= 1
        word = Message(Error(3, "Error: Message Unavailable"), reply_to=asked)
        word.metadata.__dict__["_src_node_id"] = SUPERLINK_NODE_ID
        return [word]


def addressed(count: int) -> list[Message]:
    return [
        Message(RecordDict(), dst_node_id=n, message_type=TRAIN, ttl=60.0, group_id="+1") for n in range(1, count + 1)
    ]


@pytest.fixture
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server_app.rounds.cohort._SHORTEST_PAUSE", 0.001)
    monkeypatch.setattr("server_app.rounds.cohort._LONGEST_PAUSE", 0.01)


@pytest.mark.usefixtures("_no_pause")
@pytest.mark.parametrize(("in_flight", "most"), [(0, 9), (1, 1), (4, 4), (20, 9)])
def test_every_message_is_sent_once_and_no_more_than_the_window_are_outstanding(in_flight: int, most: int) -> None:
    grid = Post()
    replies = exchange(grid, addressed(9), 5.0, in_flight)
    assert sorted(reply.metadata.src_node_id for reply in replies) == list(range(1, 10))
    assert (grid.most_outstanding, grid.sent) == (most, 9)


@pytest.mark.usefixtures("_no_pause")
def test_lost_messages_end_the_exchange_at_the_deadline_and_keep_what_came() -> None:
    assert len(exchange(Post(lost=2), addressed(5), 0.2, 0)) == 3


@pytest.mark.usefixtures("_no_pause")
def test_messages_that_could_not_be_sent_are_not_waited_for() -> None:
    assert len(exchange(Post(unsendable=2), addressed(5), 60.0, 2)) == 3


@pytest.mark.usefixtures("_no_pause")
@pytest.mark.parametrize(("group", "name"), [("0", "stage 1"), ("3", "round 3")])
def test_whoever_watches_is_told_of_replies_that_take_long(
    monkeypatch: pytest.MonkeyPatch, group: str, name: str
) -> None:
    """Ray takes a minute for a first reply on a busy machine, a large model minutes for each."""
    monkeypatch.setattr("server_app.rounds.cohort.watched", functools.partial(watched, first=0.01, every=0.01))
    messages, said = addressed(5), list[str]()
    for message in messages:
        message.metadata.__dict__["_group_id"] = group
    exchange(Post(lost=2), messages, 0.3, 0, said.append)
    assert any(line.startswith(f"{name}, replies: 3 of 5, about") for line in said)
    said.clear()
    exchange(Post(lost=2, given_up=1), messages, 0.3, 0, said.append)
    assert any(line.startswith(f"{name}, replies: 2 of 5, about") for line in said), "the SuperLink's word is no reply"
    said.clear()
    exchange(Post(lost=5), messages, 0.3, 0, said.append)
    assert said
    assert all(line.startswith(f"{name}, replies: 0:00 so far") for line in said)
