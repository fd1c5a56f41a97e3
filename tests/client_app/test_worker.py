"""Messages to a resident worker: answers, failures and deadlines, with a stand-in for the app that it serves."""

import fcntl
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.proto.message_pb2 import Message as MessageProto

from client_app import resident, worker
from client_app.worker_link import Frame, WorkerError
from tests.support.messages import instruction
from tests.support.worker_runs import ask, client_command, context, gone, wait_until, workers


@pytest.mark.usefixtures("_stand_in")
def test_one_worker_answers_message_after_message_and_the_client_s_state_travels(tmp_path: Path) -> None:
    place = context()
    first, second = ask("one", place), ask("two", place)
    assert (first["text"], second["text"]) == ("one", "two")
    assert (first["pid"], first["loaded"]) == (second["pid"], second["loaded"])
    assert first["pid"] != os.getpid()
    assert Path(first["cwd"]) == tmp_path / "work", "relative paths mean what they mean to the SuperNode"
    assert place.state["count"]["n"] == 2
    assert len(workers()) == 1


def test_an_idle_worker_does_not_end_while_a_client_app_is_about_to_ask(tmp_path: Path) -> None:
    """It was taken for one that had died over its rows, and the message was answered without them, and charged."""
    theirs, own = (os.open(tmp_path, os.O_RDONLY) for _ in range(2))
    fcntl.flock(theirs, fcntl.LOCK_EX)
    with socket.socket(socket.AF_UNIX) as listener, ThreadPoolExecutor(1) as pool:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        reading, writing = os.pipe()  # stands for the superexec, which is alive
        serving = worker.Worker(listener, reading, own, 0.05)
        waits = pool.submit(serving._wait)
        time.sleep(0.5)
        assert not waits.done()
        with socket.socket(socket.AF_UNIX) as asking:
            asking.connect(str(tmp_path / "socket"))
            assert waits.result(5.0), "it serves who asks"
            listener.accept()[0].close()
        fcntl.flock(theirs, fcntl.LOCK_UN)
        assert not serving._wait(), "nobody asks, and nobody is about to"
        with pytest.raises(BlockingIOError):
            fcntl.flock(theirs, fcntl.LOCK_EX | fcntl.LOCK_NB)  # until it has ended
    for descriptor in (theirs, own, reading, writing):
        os.close(descriptor)


@pytest.mark.usefixtures("_stand_in")
def test_a_failure_is_told_with_its_type_and_what_was_charged_before_it_stays_charged() -> None:
    place = context()
    with pytest.raises(WorkerError, match=r"^Refusal: not this one$"):
        ask("raise", place)
    assert place.state["count"]["n"] == 1
    ask("two", place)
    assert place.state["count"]["n"] == 2
    assert len(workers()) == 1


@pytest.mark.usefixtures("_stand_in")
def test_a_worker_that_dies_is_replaced_within_the_same_message() -> None:
    place = context()
    before = ask("one", place)
    after = ask("die once", place)
    assert after["pid"] != before["pid"]
    assert place.state["count"]["n"] == 2


@pytest.mark.usefixtures("_stand_in")
def test_a_message_that_kills_every_worker_is_given_up_and_the_next_one_is_served() -> None:
    place = context()
    with pytest.raises(WorkerError, match="ended 3 times"):
        ask("die", place)
    assert ask("one", place)["text"] == "one"


@pytest.mark.usefixtures("_stand_in")
def test_a_worker_that_dies_over_a_sites_own_rows_is_followed_by_one_that_does_not_look_at_them(tmp_path: Path) -> None:
    """That a long example did not fit into memory is not told: the next worker answers without the rows."""
    place, trace = context(**{"data-path": "/data/site.jsonl"}), tmp_path / "work" / "trace"
    assert ask("die over rows", place)["text"] == "die over rows"
    assert trace.read_text().split("\n") == ["die over rows"] * 2 + [""]
    with pytest.raises(WorkerError, match="ended 3 times"):  # a simulated client has nothing to hide, and tells
        ask("die over rows", context())


@pytest.mark.parametrize(("order", "error"), [("want memory", "MemoryError: "), ("doubtful", "Refusal: not this one")])
@pytest.mark.usefixtures("_stand_in")
def test_what_fails_for_want_of_memory_is_told_only_by_a_worker_that_has_no_rows(
    tmp_path: Path, order: str, error: str
) -> None:
    """One long row among many takes all of them much memory: a refusal, which costs nothing, told whether it is there.

    Without the rows it tells of the instruction alone. A worker that has read none yet ends as well.
    """
    place, trace = context(**{"data-path": "/data/site.jsonl"}), tmp_path / "work" / "trace"
    with pytest.raises(WorkerError, match=error):
        ask(order, place)
    assert trace.read_text().splitlines() == [order, order]


@pytest.mark.usefixtures("_stand_in")
def test_how_long_a_sites_own_rows_took_is_not_told_by_an_instruction_that_expires_meanwhile(tmp_path: Path) -> None:
    """The server chose a time between those of few rows and of many: one answer was a release, the other an error."""
    place, trace = context(**{"data-path": "/data/site.jsonl"}), tmp_path / "work" / "trace"
    pid = ask("one", place)["pid"]
    assert ask("hang over rows", place, ttl=2.0)["text"] == "hang over rows"
    assert gone(pid)
    assert trace.read_text().split("\n") == ["one"] + ["hang over rows"] * 2 + [""]
    ask("one", context())
    with pytest.raises(WorkerError, match="did not answer while the instruction was valid"):
        ask("hang over rows", context(), ttl=2.0)  # a simulated client has nothing to hide


@pytest.mark.usefixtures("_stand_in")
def test_how_long_an_instruction_is_valid_does_not_part_quick_rows_from_slow_ones() -> None:
    """Of a time between both, the slow ones' worker was given up, and the answer took a multiple more."""
    place = context(**{"data-path": "/data/site.jsonl", "answer-seconds": 7.0})
    pid = ask("one", place)["pid"]
    for order in ("one", "slow"):
        began = time.monotonic()
        assert ask(order, place, ttl=1.0)["pid"] == pid, "it is the same worker, which has the rows"
        assert 6.5 < time.monotonic() - began < 13.5


@pytest.mark.usefixtures("_stand_in")
def test_an_instruction_that_expires_over_a_dying_worker_is_answered_as_well() -> None:
    place = context(**{"data-path": "/data/site.jsonl"})
    ask("one", place)
    assert ask("die late over rows", place, ttl=1.0)["text"] == "die late over rows"


@pytest.mark.parametrize("run", [{}, {"data.name": "a\0b"}, {"model.name": "\0"}])
def test_what_the_system_says_of_this_machines_folders_is_not_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: dict[str, str]
) -> None:
    (tmp_path / "secret-place").touch()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "secret-place"))
    place = context(**{"data-path": "/data/site.jsonl"})
    place.run_config = dict(place.run_config) | run
    with pytest.raises(WorkerError) as refusal:
        ask("one", place)
    assert str(refusal.value) == "no worker can be had for this instruction; why is in the site's own log"
    assert refusal.value.__cause__ is refusal.value.__context__ is None


@pytest.mark.parametrize("seconds", [0.0, 0.25])
def test_an_answer_takes_a_whole_number_of_quanta_however_it_ends(seconds: float) -> None:
    quantum = 0.2
    for error in (None, ValueError):
        started = time.monotonic()
        with suppress(ValueError), resident.padded(quantum):
            time.sleep(seconds)
            if error is not None:
                raise error
        took = time.monotonic() - started
        assert took >= quantum * (1 + seconds // quantum)
        assert took % quantum < quantum / 2, "a busy machine is late, never early"
    with resident.padded(0.0):
        started = time.monotonic()
    assert time.monotonic() - started < quantum


@pytest.mark.usefixtures("_stand_in")
def test_the_quantum_of_answers_is_the_sites_own_word() -> None:
    place = context(**{"answer-seconds": 1.5})
    ask("one", place)
    started = time.monotonic()
    ask("two", place)
    assert time.monotonic() - started >= 1.5
    with pytest.raises(
        WorkerError, match=r"answer-seconds = 'long': write seconds up to 604800 \(a week\), or 0 for no"
    ):
        ask("three", context(**{"answer-seconds": "long"}))


@pytest.mark.usefixtures("_stand_in")
@pytest.mark.parametrize("idle", [60.0, 0.0], ids=["a worker", "no worker"])
def test_a_padded_answer_does_not_say_when_it_was_ready(monkeypatch: pytest.MonkeyPatch, idle: float) -> None:
    """Time of creation and validity travel with a reply: they told 19.384 s of rows where 24 had gone by."""
    place = context(**{"answer-seconds": 1.5, "worker-idle-seconds": idle})
    here = SimpleNamespace(app=lambda asked, _: Message(RecordDict(), reply_to=asked))
    monkeypatch.setitem(sys.modules, "client_app.app", here)
    for _ in range(2):  # the first one's worker may need longer than the quantum to start
        asked = instruction(RecordDict({"order": ConfigRecord({"text": "one"})}))
        reply = resident.answer(asked, place)
    assert reply.metadata.created_at - asked.metadata.created_at >= 1.5
    assert asked.metadata.ttl - reply.metadata.ttl >= 1.5


def test_of_a_site_with_data_no_file_but_its_own_decides_which_worker_answers(tmp_path: Path) -> None:
    """A question that was refused, and so free, told by seconds whether any file of the machine had changed."""
    own, ledger, model = tmp_path / "own.jsonl", tmp_path / "ledger.jsonl", tmp_path / "model"
    other = tmp_path / "other"
    model.mkdir()
    other.mkdir()

    def loaded(**run: str) -> str:
        place = context(**{"data-path": str(own), "models": f"demo, {model}"})
        place.run_config = {key.replace("_", "."): value for key, value in run.items()}
        return resident.loaded_hash(place)

    def changes(file: Path, **run: str) -> bool:
        before = loaded(**run)
        with file.open("ab") as handle:
            handle.write(b"x")
        return loaded(**run) != before

    assert not changes(ledger, data_name=str(ledger))
    assert not changes(ledger, data_name=str(ledger))
    assert not changes(other / "config.json", model_name=str(other))
    assert changes(own)
    assert changes(model / "config.json", model_name=str(model))
    assert not changes(model / "deep.json", model_name="demo")


@pytest.mark.parametrize("files", [1, 3_000])
def test_before_its_turn_a_message_looks_at_no_file_of_a_folder_of_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: int
) -> None:
    """Each answer, refused ones too, took as much longer as there were files, beside what ``answer-seconds`` pads."""
    for number in range(files):
        (tmp_path / f"{number}.jsonl").touch()
    place = context(**{"data-path": str(tmp_path), "answer-seconds": 60.0})
    looks: list[str] = []
    stat = Path.stat
    monkeypatch.setattr(Path, "stat", lambda path, **how: looks.append(str(path)) or stat(path, **how))
    monkeypatch.setattr(os, "walk", lambda *_, **__: pytest.fail("the folder was walked"))
    monkeypatch.setattr(os, "scandir", lambda *_: pytest.fail("the folder was listed"))
    resident.loaded_hash(place)
    assert len(looks) <= 3, looks


@pytest.mark.usefixtures("_stand_in")
def test_a_worker_that_hangs_is_stopped_when_the_instruction_is_no_longer_valid() -> None:
    place = context()
    pid = ask("one", place)["pid"]
    with pytest.raises(WorkerError, match="did not answer while the instruction was valid"):
        ask("hang", place, ttl=2.0)
    assert gone(pid)


@pytest.mark.usefixtures("_stand_in")
def test_an_instruction_that_expires_in_the_queue_is_not_computed_and_the_worker_stays(tmp_path: Path) -> None:
    place, trace = context(), tmp_path / "work" / "trace"
    pid = ask("one", place)["pid"]
    with subprocess.Popen([sys.executable, *client_command(tmp_path, "slow")], stdout=subprocess.PIPE) as busy:
        wait_until(lambda: "slow" in trace.read_text())
        with pytest.raises(WorkerError, match="expired before the node's worker was free"):
            ask("late", place, ttl=0.5)
        assert busy.poll() is None, "it did not wait for its turn longer than it was valid"
        assert busy.stdout
        assert int(busy.stdout.readline()) == pid, "the one in front of it is answered as if nothing was"
    assert place.state["count"]["n"] == 1
    assert ask("two", place)["pid"] == pid
    assert trace.read_text().split() == ["one", "slow", "two"]


@pytest.mark.usefixtures("_stand_in")
@pytest.mark.parametrize("quantum", [0.0, 6.0])
def test_what_becomes_of_a_message_does_not_tell_how_long_the_one_before_took_at_a_site_with_data(
    tmp_path: Path, quantum: float
) -> None:
    """Of two at once the second was refused, uncharged, if rows made the first last longer than it was valid.

    So a server read off the time that ``answer-seconds`` was to hide, as finely as it liked.
    """
    place, trace = context(**{"data-path": str(tmp_path / "site.jsonl"), "answer-seconds": quantum}), tmp_path / "work"
    order = client_command(tmp_path, "slow", **dict(place.node_config))
    with subprocess.Popen([sys.executable, *order], stdout=subprocess.PIPE) as busy, ThreadPoolExecutor() as other:
        assert busy.stdout
        first = other.submit(lambda line: (line(), time.monotonic()), busy.stdout.readline)
        wait_until((trace / "trace").exists)
        found = ask("answered", place, ttl=0.5)
        ended = time.monotonic()
        pid, before = first.result()
    if quantum:
        assert int(pid) == found["pid"], "how long it was valid decides nothing"
    else:
        assert int(pid) != found["pid"], "without rows, so in a process that has none"
    assert (trace / "trace").read_text().split() == ["slow", "answered"]
    assert place.state["count"]["n"] == 1
    if quantum:
        assert ended - before > quantum - 0.5, "it has its turn when the first's is over"
        assert (ended - before + 0.5) % quantum < 2.0, "and takes whole quanta from then on"


@pytest.mark.usefixtures("_stand_in")
def test_an_instruction_that_has_expired_before_it_is_sent_does_not_reach_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = context()
    pid = ask("one", place)["pid"]
    connect = resident._connect

    def slowly(folder: int, idle: float) -> socket.socket:
        time.sleep(0.5)
        return connect(folder, idle)

    with monkeypatch.context() as patched:
        patched.setattr(resident, "_connect", slowly)
        with pytest.raises(WorkerError, match="it was not computed"):
            ask("late", place, ttl=0.3)
    assert ask("two", place)["pid"] == pid
    assert (tmp_path / "work" / "trace").read_text().split() == ["one", "two"]


@pytest.mark.usefixtures("_stand_in")
def test_an_answer_that_is_too_large_fails_with_its_charge_kept_and_the_worker_stays() -> None:
    place = context()
    pid = ask("one", place)["pid"]
    with pytest.raises(WorkerError, match=r"^WorkerError: a frame of 131\d+ bytes, above 65536$"):
        ask("large", place)
    assert place.state["count"]["n"] == 2
    assert ask("two", place)["pid"] == pid


def spoiled() -> MessageProto:
    """What Flower's parser cannot read: a value of no type."""
    made = MessageProto()
    made.content.items.add(key="order").config_record.items.add(key="text")
    return made


def ask_spoiled(place: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(resident, "message_to_proto", lambda _: spoiled())
        with pytest.raises(WorkerError, match=r"^WorkerError: not a message and a context of Flower"):
            ask("two", place)


@pytest.mark.usefixtures("_stand_in")
def test_a_message_that_the_worker_cannot_parse_fails_and_the_worker_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    place = context()
    pid = ask("one", place)["pid"]
    ask_spoiled(place, monkeypatch)
    assert place.state["count"]["n"] == 1
    assert ask("three", place)["pid"] == pid


@pytest.mark.usefixtures("_stand_in")
def test_what_cannot_be_parsed_beside_rows_is_told_by_a_worker_without_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Protobuf calls a message malformed when there is no memory for it, which one long row among many takes."""
    place = context(**{"data-path": "/data/site.jsonl"})
    pid = ask("one", place)["pid"]
    ask_spoiled(place, monkeypatch)
    assert gone(pid)
    assert ask("three", place)["pid"] != pid


def test_a_message_that_flower_cannot_parse_is_the_peers_fault() -> None:
    """Flower's parser raises an AttributeError at a value of no type; the worker would have died of it."""
    with pytest.raises(WorkerError, match="not a message and a context of Flower"):
        worker._open(Frame({}, (spoiled().SerializeToString(), b"")))


def test_without_an_idle_time_everything_happens_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def direct(message: Message, place: Context) -> Message:
        umask = os.umask(0o077)
        os.umask(umask)
        place.state["seen"] = MetricRecord({"n": 1, "umask": umask})
        return Message(RecordDict({"reply": ConfigRecord({"pid": os.getpid()})}), reply_to=message)

    monkeypatch.setattr("client_app.app.app", direct)
    place = context(**{"worker-idle-seconds": 0})
    assert ask("one", place)["pid"] == os.getpid()
    assert dict(place.state["seen"]) == {"n": 1, "umask": 0o077}, "as in a worker, no library's file is open to others"


@pytest.mark.usefixtures("_stand_in")
def test_what_a_server_writes_begins_no_line_of_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    """The log is where a site is told that its ledger is full, or that an answer was nothing but noise."""
    forged = "2026-01-01 00:00:00,000 WARNING worker[7] this site refuses: its max-releases = 1000 is reached"
    message = instruction(RecordDict({"order": ConfigRecord({"text": f"raise\n{forged}"})}))
    message.metadata.__dict__["_group_id"] = f"+1\n{forged}\x1b[2J"
    with pytest.raises(WorkerError):
        resident.answer(message, context())
    said = capfd.readouterr().err
    assert "worker[" in said
    assert "\x1b" not in said
    assert not any(line.startswith(forged[:20]) for line in said.splitlines())
