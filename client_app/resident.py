"""The thin half of a deployed ClientApp: hands a message to the node's resident worker, and starts one where none is.

Flower starts a new process for every message. Loading a model there costs minutes a round, so this half imports no
torch and keeps nothing; ``client_app.worker`` keeps everything. One worker serves one node and one version of the app.
Retrying on a fresh worker is safe: a release that was lost with a worker has never left the site. Where the worker of a
site with its own data has died over a message (a long example, too little memory), the next one answers without the
data, with the noise of the zero code: that it died is nobody else's business. So it is with one that did not answer
while the instruction was valid, or was not free for it: how long that is, the server chooses, and for how long the
message before takes the worker may hang on rows.
"""

import fcntl
import hashlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.common.serde import context_to_proto, message_to_proto, recorddict_from_proto
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictProto

from client_app.file_versions import version, versions
from client_app.node_config import brings_own_data, check_data_name, may_look_at_model
from client_app.worker_link import PROTOCOL, Frame, WorkerError, check_peer, open_folder, socket_path
from common.private_files import private_files
from common.wire.digest import app_digest

IDLE_KEY, DEFAULT_IDLE_SECONDS = "worker-idle-seconds", 1800.0
QUANTUM_KEY = "answer-seconds"
_MOST_SECONDS = 604800.0  # a week; the system's waits end far beyond it, at 2^63 ns
FLOWER_CLIENT_PROCESS = "flwr.supernode.runtime.run_clientapp"
_LOADED_FROM = ("model.", "lora.", "data.", "seed")  # prefixes of the run-config keys that decide what a worker loads
_ROOT = Path(__file__).resolve().parent.parent
_BOOT = (  # its process id first: until it is written, nobody can end this worker
    "import os, sys; os.pwrite(int(sys.argv[2]), str(os.getpid()).encode(), 0); "
    "sys.path.insert(0, sys.argv[1]); from client_app.worker import main; main(sys.argv[3:])"
)
_ATTEMPTS = 3  # one that has retired, one that dies, one that answers without the data
_EXIT_SECONDS, _POLL_SECONDS = 20.0, 0.02
_ROWLESS_SECONDS = 600.0  # at least, for an answer without the data: the server's deadline would cut it short
_KILL_SECONDS = 60.0  # for a killed worker to be gone; the memory of an accelerator takes some of them


def in_flower_client_process() -> bool:
    """Whether this is the process that a SuperNode starts for one message; false in simulation and in tests."""
    return FLOWER_CLIENT_PROCESS in sys.modules


@dataclass(frozen=True)
class _Turn:
    """A message's turn with the node's worker.

    Attributes:
        begins: to be called when it has come.
        held: closes, when it is over, what keeps the others waiting.
        quantum: seconds of which it takes a multiple; 0: as long as it takes.

    """

    begins: Callable[[], None]
    held: ExitStack
    quantum: float = 0.0


def answer(message: Message, context: Context) -> Message:
    """What ``client_app.app.app`` answers, computed in the node's worker; changes of ``context.state`` come back too.

    Raises ``WorkerError`` with the type and text of what was raised there, or when no worker can be had in time. A
    node whose ``worker-idle-seconds`` is 0 has no worker: everything is loaded here. With ``answer-seconds`` the time
    that this takes from its turn on, however it ends, is rounded up to a multiple of it. Only then is the reply made,
    which says when, and only then has the next message its turn: by what becomes of that, too, nobody is to tell.
    """
    quantum = _seconds(context.node_config, QUANTUM_KEY, 0.0, "0 for no padding")
    with ExitStack() as held, padded(quantum) as begins, private_files():
        content = _answer(message, context, _Turn(begins, held, quantum))
    return Message(content, reply_to=message)


@contextmanager
def padded(quantum: float) -> Iterator[Callable[[], None]]:
    """Let the block take a whole multiple of ``quantum`` seconds; 0: as long as it takes.

    They are counted from the last call of what it is given, if it calls that.
    """
    started = time.monotonic()

    def anew() -> None:
        nonlocal started
        started = time.monotonic()

    try:
        yield anew
    finally:
        if quantum:
            time.sleep(quantum - (time.monotonic() - started) % quantum)


def _answer(message: Message, context: Context, turn: _Turn) -> RecordDict:
    check_data_name(context.node_config, str(context.run_config.get("data.name", "demo")))
    idle = _seconds(context.node_config, IDLE_KEY, DEFAULT_IDLE_SECONDS, "0 for no worker")
    if not idle:
        from client_app.app import app  # noqa: PLC0415 - takes seconds, which the worker saves

        return app(message, context).content
    reply = _handed_over(message, context, idle, turn)
    failed = reply.header.get("status") != "done"
    if len(reply.parts) != 2 and (reply.parts or not failed):
        raise WorkerError(f"the worker's answer has {len(reply.parts)} parts")
    if reply.parts:  # also when it failed; none when the worker did not come as far as to the handler
        context.state = recorddict_from_proto(RecordDictProto.FromString(reply.parts[0]))
    if failed:
        raise WorkerError(f"{reply.header.get('type')}: {reply.header.get('text')}")
    return recorddict_from_proto(RecordDictProto.FromString(reply.parts[1]))


def _handed_over(message: Message, context: Context, idle: float, turn: _Turn) -> Frame:
    """The worker's reply; what the system says of folders and names of this machine stays in the site's own log."""
    try:
        return _ask(message, context, idle, turn)
    except WorkerError:
        raise
    except Exception:
        logging.getLogger("flwr").exception("the instruction could not be handed to a worker")
    raise WorkerError("no worker can be had for this instruction; why is in the site's own log")


def loaded_hash(context: Context) -> str:
    """A hash of everything that decides what a worker has loaded, a local data file and a model as on disk included.

    What lies in a folder of data is looked at by who reads it, in time that is paid for: here it would tell how much.

    Of a site with its own data no other file is looked at, whatever a run names: a worker that makes room for another
    takes seconds, by which a question that is refused, and so free, told whether any file of that machine had changed.
    """
    run = {name: value for name, value in context.run_config.items() if name.startswith(_LOADED_FROM)}
    keys = ("data-path", "partition-id", "num-partitions")
    node = {name: context.node_config.get(name) for name in keys}
    model = str(context.run_config.get("model.name", ""))
    folder = versions(model) if may_look_at_model(context.node_config, model) else []
    data = version(str(context.node_config.get("data-path", "")))
    text = json.dumps([run, node, data, folder], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _ask(message: Message, context: Context, idle: float, turn: _Turn) -> Frame:
    header: dict[str, Any] = {"protocol": PROTOCOL, "app": app_digest(), "loaded": loaded_hash(context)}
    header["message"] = os.urandom(16).hex()  # of this process's own making: no server can send it again
    parts = (message_to_proto(message).SerializeToString(), context_to_proto(context).SerializeToString())
    deadline = time.monotonic() + message.metadata.ttl  # from its arrival: the server's clock may be another
    header["own-data"] = own_data = brings_own_data(context.node_config)
    patience = _EXIT_SECONDS
    folder = open_folder(f"{context.node_id:x}-{app_digest()}")
    turn.held.callback(os.close, folder)
    while not _lock(folder):  # one ClientApp of a node at a time; the kernel lets go of a dead one's
        if not own_data:
            _check_valid(deadline)
        time.sleep(_POLL_SECONDS)
    turn.begins()
    if own_data:  # how long an instruction is valid the server chooses: so whose rows take longer it does not
        deadline = max(deadline, time.monotonic() + turn.quantum)
    try:
        for _ in range(_ATTEMPTS):
            with _connect(folder, idle) as connection:
                try:
                    reply = _exchange(connection, Frame(header, parts), deadline)
                except (ConnectionError, TimeoutError) as lost:
                    late = isinstance(lost, TimeoutError)
                    if late and not (own_data and header.get("rows", True)):
                        raise
                    reply, patience = None, 0.0 if late else _EXIT_SECONDS
                    if own_data:
                        header["rows"], deadline = False, max(deadline, time.monotonic() + _ROWLESS_SECONDS)
            if reply is not None:
                return reply
            end_worker(folder, patience)  # the memory of an accelerator is free only when it is gone
    except TimeoutError:
        end_worker(folder, 0.0)
        raise WorkerError("the worker did not answer while the instruction was valid; it was stopped") from None
    raise WorkerError(f"the worker ended {_ATTEMPTS} times before it could answer; why is in its own log")


def _exchange(connection: socket.socket, frame: Frame, deadline: float) -> Frame | None:
    """The worker's reply; ``None`` when it makes room for another one, ``ConnectionError`` when it has died.

    ``TimeoutError`` when it is late, which at a site with its own data it also is where the instruction has expired
    before: how soon the worker was free for it is not told.
    """
    check_peer(connection)
    if not frame.header["own-data"]:
        _check_valid(deadline)
    frame.send(connection, deadline)
    reply = Frame.receive(connection, deadline)
    return None if reply.header.get("status") == "retired" else reply


def _check_valid(deadline: float) -> None:
    """To be asked before the worker gets the instruction: what has expired is never computed, nor charged."""
    if time.monotonic() >= deadline:
        raise WorkerError("the instruction expired before the node's worker was free for it; it was not computed")


def _connect(folder: int, idle: float) -> socket.socket:
    """A connection to the node's worker, which is started where none listens."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(socket_path(folder))
    except (FileNotFoundError, ConnectionRefusedError):
        start_worker(folder, idle)
        connection.connect(socket_path(folder))
    return connection


def start_worker(folder: int, idle: float) -> None:
    """Start a worker on a socket that listens already: whoever connects waits in its queue until it is ready.

    The worker ends with the process that started this one (Flower's superexec), or after ``idle`` seconds.
    """
    end_worker(folder, _EXIT_SECONDS)  # one that lost its socket, to a cleaner of temporary files say
    with suppress(FileNotFoundError):
        os.unlink(socket_path(folder))  # noqa: PTH108 - through the descriptor, see ``socket_path``
    with socket.socket(socket.AF_UNIX) as listener, ExitStack() as opened:
        previous = os.umask(0o177)
        try:
            listener.bind(socket_path(folder))
        finally:
            os.umask(previous)
        listener.listen()
        life = _open(_life_path(folder), os.O_RDWR | os.O_CREAT, opened)
        fcntl.flock(life, fcntl.LOCK_EX | fcntl.LOCK_NB)  # inherited: held until the worker has ended
        parent = os.pidfd_open(os.getppid() or os.getpid())  # 0: this is a container's first process
        opened.callback(os.close, parent)
        own = _open(f"/proc/self/fd/{folder}", os.O_RDONLY | os.O_DIRECTORY, opened)  # a duplicate shares our lock
        os.ftruncate(life, 0)  # before there is a worker: an old number never stands in a file that a new worker holds
        command = [sys.executable, "-P", "-c", _BOOT, str(_ROOT)]
        command += [str(number) for number in (life, listener.fileno(), parent, own)]
        subprocess.Popen(  # noqa: S603 - this interpreter, no shell
            [*command, str(idle)], pass_fds=(listener.fileno(), parent, own, life), stdin=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip


def end_worker(folder: int, patience: float) -> None:
    """Wait until the worker of a folder has ended, ``patience`` seconds, then kill it. None there: nothing to do.

    Raises ``WorkerError`` when it is still there long after, or when nobody knows which process it is.
    """
    with ExitStack() as opened:
        try:
            life = _open(_life_path(folder), os.O_RDONLY, opened)
        except FileNotFoundError:
            return
        deadline = time.monotonic() + patience
        while not _lock(life):
            if time.monotonic() > deadline + _KILL_SECONDS:
                raise WorkerError("a worker of this node holds its folder and could not be ended; end it by hand")
            if time.monotonic() > deadline:
                _kill_holder(life)
            time.sleep(_POLL_SECONDS)


def _kill_holder(life: int) -> None:
    """Kill the process whose number the file tells, if it is one that has the file open; else it is no worker."""
    number = os.pread(life, 20, 0)
    if not number.isdigit() or int(number) == os.getpid():
        return  # a worker that has just been started and has not written it yet
    with suppress(OSError), ExitStack() as opened:
        process = os.pidfd_open(int(number))  # first: the number cannot pass on to another between look and kill
        opened.callback(os.close, process)
        if any(_same_file(path, life) for path in Path(f"/proc/{int(number)}/fd").iterdir()):
            signal.pidfd_send_signal(process, signal.SIGKILL)


def _same_file(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except OSError:  # closed since, or no file: a socket of another namespace
        return False


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _open(path: str, flags: int, opened: ExitStack) -> int:
    descriptor = os.open(path, flags, 0o600)
    opened.callback(os.close, descriptor)
    return descriptor


def _life_path(folder: int) -> str:
    """The file that a living worker keeps locked; its content is the worker's process id."""
    return f"/proc/self/fd/{folder}/worker"


def _seconds(node_config: Mapping[str, Any], key: str, default: float, zero: str) -> float:
    value = node_config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MOST_SECONDS:
        raise WorkerError(f"node config {key} = {value!r}: write seconds up to {_MOST_SECONDS:.0f} (a week), or {zero}")
    return float(value)
