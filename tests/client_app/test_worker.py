"""The resident worker: real processes on a real socket, with a small stand-in for the app they serve."""

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.proto.message_pb2 import Message as MessageProto

from client_app import resident, worker, worker_link
from client_app.worker_link import Letter, WorkerError
from tests.messages import instruction

ROOT = Path(__file__).parents[2]
STAND_IN = """
import os, signal, time
from pathlib import Path
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from client_app import worker_link

LOADED = str(time.time_ns())


class Refusal(ValueError):
    pass


def app(message, context):
    context.state["count"] = MetricRecord({"n": context.state["count"]["n"] + 1 if "count" in context.state else 1})
    order = message.content["order"]["text"]
    with Path("trace").open("a") as trace:
        trace.write(order + "\\n")
    if order == "raise":
        raise Refusal("not this one")
    if order == "die" or (order == "die once" and not Path("died").exists()):
        Path("died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if order == "hang":
        Path("hanging").touch()
        time.sleep(60)
    if order == "large":
        worker_link.MAX_FRAME, order = 1 << 16, "x" * (1 << 17)
    if order == "slow":
        time.sleep(4)
    reply = ConfigRecord({"pid": os.getpid(), "loaded": LOADED, "text": order, "cwd": os.getcwd()})
    return Message(RecordDict({"reply": reply}), reply_to=message)
"""


@pytest.fixture
def _app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A copy of the app whose handlers are the stand-in, run in a folder of its own; its workers die with the test."""
    root = tmp_path / "app"
    for package in ("client_app", "common"):
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__", "assets"))
    (root / "client_app" / "app.py").write_text(STAND_IN)
    monkeypatch.setattr(resident, "_ROOT", root)
    digest = "from common.app_digest import app_digest; print(app_digest())"
    shutil.copy(ROOT / "dr_encoder_client.py", root)
    found = subprocess.run([sys.executable, "-c", digest], cwd=root, capture_output=True, text=True, check=True)
    monkeypatch.setattr(resident, "app_digest", found.stdout.strip)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "runtime"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    yield
    for process in workers():
        process.kill()
        process.wait(10)


def workers() -> list[psutil.Process]:
    living = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in living if "client_app.worker" in " ".join(child.cmdline())]


def context(**node: Any) -> Context:
    return Context(run_id=7, node_id=11, node_config={"partition-id": 0, **node}, state=RecordDict(), run_config=RUN)


RUN: dict[str, Any] = {"model.name": "demo", "seed": 1, "num-server-rounds": 3}


def ask(text: str, place: Context, ttl: float = 60.0) -> dict[str, Any]:
    content = RecordDict({"order": ConfigRecord({"text": text})})
    reply = resident.answer(instruction(content, ttl=ttl), place)
    return dict(reply.content["reply"])


def socket_file(tmp_path: Path) -> Path:
    (found,) = (tmp_path / "runtime").glob("dr-encoder-*/*/socket")
    return found


def dial(tmp_path: Path) -> socket.socket:
    """A connection to the one worker there is, by somebody who is no ClientApp."""
    folder = os.open(socket_file(tmp_path).parent, os.O_RDONLY | os.O_DIRECTORY)
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(worker_link.socket_path(folder))
    os.close(folder)
    return connection


def soon() -> float:
    return time.monotonic() + 60


def gone(pid: int, seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.usefixtures("_app")
def test_one_worker_answers_message_after_message_and_the_client_s_state_travels(tmp_path: Path) -> None:
    place = context()
    first, second = ask("one", place), ask("two", place)
    assert (first["text"], second["text"]) == ("one", "two")
    assert (first["pid"], first["loaded"]) == (second["pid"], second["loaded"])
    assert first["pid"] != os.getpid()
    assert Path(first["cwd"]) == tmp_path / "work", "relative paths mean what they mean to the SuperNode"
    assert place.state["count"]["n"] == 2
    assert len(workers()) == 1


@pytest.mark.usefixtures("_app")
def test_a_failure_is_told_with_its_type_and_what_was_charged_before_it_stays_charged() -> None:
    place = context()
    with pytest.raises(WorkerError, match=r"^Refusal: not this one$"):
        ask("raise", place)
    assert place.state["count"]["n"] == 1
    ask("two", place)
    assert place.state["count"]["n"] == 2
    assert len(workers()) == 1


@pytest.mark.usefixtures("_app")
def test_a_worker_that_dies_is_replaced_within_the_same_message() -> None:
    place = context()
    before = ask("one", place)
    after = ask("die once", place)
    assert after["pid"] != before["pid"]
    assert place.state["count"]["n"] == 2


@pytest.mark.usefixtures("_app")
def test_a_message_that_kills_every_worker_is_given_up_and_the_next_one_is_served() -> None:
    place = context()
    with pytest.raises(WorkerError, match="ended 2 times"):
        ask("die", place)
    assert ask("one", place)["text"] == "one"


@pytest.mark.usefixtures("_app")
def test_a_worker_killed_between_two_messages_is_replaced() -> None:
    place = context()
    before = ask("one", place)
    os.kill(before["pid"], signal.SIGKILL)
    assert ask("two", place)["pid"] != before["pid"]


@pytest.mark.usefixtures("_app")
def test_a_worker_that_hangs_is_stopped_when_the_instruction_is_no_longer_valid() -> None:
    place = context()
    pid = ask("one", place)["pid"]
    with pytest.raises(WorkerError, match="did not answer while the instruction was valid"):
        ask("hang", place, ttl=2.0)
    assert gone(pid)


@pytest.mark.usefixtures("_app")
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


@pytest.mark.usefixtures("_app")
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


def test_the_deadline_of_a_letter_is_for_all_of_it_however_slowly_it_trickles() -> None:
    one, other = socket.socketpair(socket.AF_UNIX)

    def trickle() -> None:
        with suppress(OSError):
            for _ in range(50):
                one.send(b"\x01")
                time.sleep(0.1)

    thread = threading.Thread(target=trickle)
    with one, other:
        thread.start()
        start = time.monotonic()
        with pytest.raises(TimeoutError):
            Letter.receive(other, start + 0.5)
        assert time.monotonic() - start < 3.0
    thread.join()


def test_a_letter_that_nobody_reads_is_given_up_at_the_deadline() -> None:
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other, pytest.raises(TimeoutError):
        Letter({}, (bytes(1 << 22),)).send(one, time.monotonic() + 0.3)


@pytest.mark.usefixtures("_app")
def test_another_model_or_changed_data_means_another_worker_but_another_round_count_does_not(tmp_path: Path) -> None:
    data = tmp_path / "site.jsonl"
    data.write_text("one\n")
    place = context(**{"data-path": str(data)})
    first = ask("one", place)
    place.run_config = RUN | {"num-server-rounds": 9}
    assert ask("two", place)["pid"] == first["pid"]
    data.write_text("one\ntwo\n")
    second = ask("three", place)
    assert second["pid"] != first["pid"]
    assert gone(first["pid"]), "its memory is free before the next one loads"
    place.run_config = RUN | {"model.name": "other"}
    assert ask("four", place)["pid"] != second["pid"]


@pytest.mark.usefixtures("_app")
def test_a_model_folder_that_is_upgraded_in_place_means_another_worker(tmp_path: Path) -> None:
    weights = tmp_path / "model" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_text("weights 1")
    place = context()
    place.run_config = RUN | {"model.name": str(weights.parent)}
    first = ask("one", place)
    (weights.parent / "checkpoint-1").mkdir()
    assert ask("two", place)["pid"] == first["pid"], "nothing is loaded from a sub-folder"
    weights.write_text("weights 2")
    assert ask("three", place)["pid"] != first["pid"]


@pytest.mark.usefixtures("_app")
def test_an_answer_that_is_too_large_fails_with_its_charge_kept_and_the_worker_stays() -> None:
    place = context()
    pid = ask("one", place)["pid"]
    with pytest.raises(WorkerError, match=r"^WorkerError: a frame of 131\d+ bytes, above 65536$"):
        ask("large", place)
    assert place.state["count"]["n"] == 2
    assert ask("two", place)["pid"] == pid


@pytest.mark.usefixtures("_app")
def test_a_message_that_the_worker_cannot_parse_fails_and_the_worker_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    place = context()
    pid = ask("one", place)["pid"]
    spoiled = MessageProto()
    spoiled.content.items.add(key="order").config_record.items.add(key="text")
    with monkeypatch.context() as patched:
        patched.setattr(resident, "message_to_proto", lambda _: spoiled)
        with pytest.raises(WorkerError, match=r"^WorkerError: not a message and a context of Flower"):
            ask("two", place)
    assert place.state["count"]["n"] == 1
    assert ask("three", place)["pid"] == pid


@pytest.mark.usefixtures("_app")
def test_other_code_under_the_same_socket_is_never_served(tmp_path: Path) -> None:
    first = ask("one", context())
    with dial(tmp_path) as connection:
        Letter({"protocol": worker_link.PROTOCOL, "app": "other", "loaded": ""}, (b"-", b"-")).send(connection, soon())
        assert Letter.receive(connection, soon()).header == {"status": "retired"}
    assert gone(first["pid"])


@pytest.mark.usefixtures("_app")
def test_a_worker_that_has_lost_its_socket_is_ended_before_another_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resident, "_EXIT_SECONDS", 0.5)
    first = ask("one", context())
    socket_file(tmp_path).unlink()
    assert ask("two", context())["pid"] != first["pid"]
    assert gone(first["pid"])


ORPHANING = """
import os, signal, subprocess
from client_app import resident
start = subprocess.Popen
class Killed(start):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        os.kill(os.getpid(), signal.SIGKILL)
resident.subprocess.Popen = Killed
"""


@pytest.mark.usefixtures("_app")
def test_a_number_left_by_an_earlier_worker_never_gets_another_process_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ClientApp dies as soon as it has started a worker; in the file there was the number of one long gone."""
    monkeypatch.setattr(resident, "_EXIT_SECONDS", 0.0)
    pid = ask("one", context())["pid"]
    os.kill(pid, signal.SIGKILL)
    assert gone(pid)
    life = socket_file(tmp_path).parent / "worker"
    with subprocess.Popen(["sleep", "600"]) as bystander:
        try:
            life.write_text(str(bystander.pid))
            command = client_command(tmp_path, "one")
            command[1] = CLIENT.replace("print(", ORPHANING + "print(")
            assert subprocess.run([sys.executable, *command], check=False).returncode == -signal.SIGKILL
            socket_file(tmp_path).unlink()
            assert ask("two", context())["text"] == "two"
            assert bystander.poll() is None
        finally:
            bystander.kill()


HOLDER = """
import fcntl, os, sys, time
life = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
fcntl.flock(life, fcntl.LOCK_EX)
os.write(life, sys.argv[2].encode())
print("held", flush=True)
time.sleep(1.0)
if sys.argv[3] == "writes":
    os.pwrite(life, str(os.getpid()).encode(), 0)
time.sleep(600)
"""


@pytest.mark.parametrize("told", ["nothing", "a bystander", "itself, in the end"])
def test_a_worker_is_killed_only_when_it_has_said_that_it_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str
) -> None:
    monkeypatch.setattr(resident, "_KILL_SECONDS", 0.5 if told != "itself, in the end" else 30.0)
    folder = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    with subprocess.Popen(["sleep", "600"]) as bystander:
        number = str(bystander.pid) if told == "a bystander" else ""
        writes = "writes" if told == "itself, in the end" else ""
        command = [sys.executable, "-c", HOLDER, str(tmp_path / "worker"), number, writes]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
            try:
                assert holder.stdout
                holder.stdout.readline()
                if writes:
                    resident.end_worker(folder, 0.0)
                    assert holder.wait(10) == -signal.SIGKILL
                else:
                    with pytest.raises(WorkerError, match="could not be ended"):
                        resident.end_worker(folder, 0.0)
                    assert holder.poll() is None
                assert bystander.poll() is None
            finally:
                holder.kill()
                bystander.kill()
                os.close(folder)


@pytest.mark.usefixtures("_app")
def test_each_node_has_a_worker_of_its_own() -> None:
    one, other = context(), context()
    other.node_id = 12
    assert ask("one", one)["pid"] != ask("one", other)["pid"]


@pytest.mark.usefixtures("_app")
def test_an_idle_worker_ends_and_takes_its_socket_along(tmp_path: Path) -> None:
    place = context(**{"worker-idle-seconds": 0.5})
    pid = ask("one", place)["pid"]
    path = socket_file(tmp_path)
    assert gone(pid)
    assert not path.exists()
    assert ask("two", place)["pid"] != pid


@pytest.mark.usefixtures("_app")
def test_socket_and_folders_are_for_the_owner_only(tmp_path: Path) -> None:
    ask("one", context())
    path = socket_file(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for folder in (path.parent, path.parent.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.usefixtures("_app")
def test_garbage_on_the_socket_costs_the_worker_nothing(tmp_path: Path) -> None:
    place = context()
    pid = ask("one", place)["pid"]
    before = psutil.Process(pid).memory_info().rss
    for garbage in (b"", b"\x00", b"\xff" * 64, b"\x01" + b"\x7f" * 8, b"\x01" + (1 << 29).to_bytes(8, "big") + b"{"):
        with dial(tmp_path) as connection:
            connection.sendall(garbage)
    assert ask("two", place)["pid"] == pid
    assert psutil.Process(pid).memory_info().rss < before + (64 << 20)


def test_a_message_that_flower_cannot_parse_is_the_peers_fault() -> None:
    """Flower's parser raises an AttributeError at a value of no type; the worker would have died of it."""
    spoiled = MessageProto()
    spoiled.content.items.add(key="order").config_record.items.add(key="text")
    with pytest.raises(WorkerError, match="not a message and a context of Flower"):
        worker._open(Letter({}, (spoiled.SerializeToString(), b"")))


CLIENT = """
import sys; sys.path[:0] = [sys.argv[1], sys.argv[2]]
from tests.client_app import test_worker as t
from pathlib import Path
t.resident._ROOT = Path(sys.argv[1])
print(t.ask(sys.argv[3], t.context())['pid'], flush=True)
"""


def client_command(tmp_path: Path, order: str) -> list[str]:
    """A ClientApp in a process of its own."""
    return ["-c", CLIENT, str(tmp_path / "app"), str(ROOT), order]


def wait_until(true: Callable[[], bool]) -> None:
    deadline = soon()
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def wait_until_it_hangs(tmp_path: Path) -> int:
    """The process id of the one worker, which is in the middle of a message."""
    wait_until((tmp_path / "work" / "hanging").exists)
    return int((socket_file(tmp_path).parent / "worker").read_text())


@pytest.mark.usefixtures("_app")
def test_a_worker_does_not_compute_on_for_a_client_that_was_killed(tmp_path: Path) -> None:
    """It would keep the next one waiting for a result that nobody gets."""
    place = context()
    pid = ask("one", place)["pid"]
    with subprocess.Popen([sys.executable, *client_command(tmp_path, "hang")]) as client:
        assert wait_until_it_hangs(tmp_path) == pid
        client.kill()
        assert gone(pid, 5.0)
    assert ask("two", place)["pid"] != pid


@pytest.mark.usefixtures("_app")
def test_a_worker_in_the_middle_of_a_message_ends_with_superexec(tmp_path: Path) -> None:
    """Though the ClientApp that waits for it, which is frozen here, has not noticed yet."""
    parent = (
        "import subprocess, sys; child = subprocess.Popen([sys.executable, *sys.argv[1:]]); "
        "print(child.pid, flush=True); child.wait()"
    )
    command = [sys.executable, "-c", parent, *client_command(tmp_path, "hang")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as superexec:
        assert superexec.stdout
        client = psutil.Process(int(superexec.stdout.readline()))
        pid = wait_until_it_hangs(tmp_path)
        client.suspend()
        try:
            superexec.kill()
            superexec.wait()
            assert gone(pid, 5.0)
        finally:
            client.kill()


@pytest.mark.usefixtures("_app")
def test_a_worker_ends_with_the_process_that_asked_for_it(tmp_path: Path) -> None:
    """Here a grandchild: the child stands for Flower's superexec, its own child for the ClientApp."""
    parent = "import subprocess, sys, time; subprocess.run([sys.executable, *sys.argv[1:]]); time.sleep(60)"
    command = [sys.executable, "-c", parent, *client_command(tmp_path, "one")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as superexec:
        assert superexec.stdout
        pid = int(superexec.stdout.readline())
        assert psutil.pid_exists(pid)
        superexec.kill()
        superexec.wait()
        assert gone(pid)
    assert not list((tmp_path / "runtime").glob("dr-encoder-*/*/socket"))


def test_a_peer_of_another_user_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other:
        worker_link.check_peer(one)
        uid = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
        with pytest.raises(WorkerError, match=f"is user {uid}, not {uid + 1}"):
            worker_link.check_peer(one)


@pytest.mark.parametrize("spoil", ["open to others", "a link", "a file"])
def test_a_folder_that_others_could_have_made_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: str
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    base = tmp_path / f"dr-encoder-{os.geteuid()}"
    if spoil == "a link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        base.symlink_to(tmp_path / "elsewhere")
    elif spoil == "a file":
        base.touch()
    else:
        base.mkdir()
        base.chmod(0o755)
    with pytest.raises((WorkerError, FileExistsError)):
        worker_link.open_folder("node")


@pytest.mark.parametrize("value", [-1.0, True, "soon", float("nan"), float("inf"), 1e18, 604801])
def test_a_bad_idle_time_is_refused(value: object) -> None:
    with pytest.raises(WorkerError, match="worker-idle-seconds"):
        ask("one", context(**{"worker-idle-seconds": value}))


def test_without_an_idle_time_everything_happens_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def direct(message: Message, place: Context) -> Message:
        place.state["seen"] = MetricRecord({"n": 1})
        return Message(RecordDict({"reply": ConfigRecord({"pid": os.getpid()})}), reply_to=message)

    monkeypatch.setattr("client_app.app.app", direct)
    place = context(**{"worker-idle-seconds": 0})
    assert ask("one", place)["pid"] == os.getpid()
    assert place.state["seen"]["n"] == 1
