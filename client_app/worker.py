"""The resident worker of a node: keeps base model, tokenizer, data and codec loaded between Flower's messages.

Started by ``client_app.resident`` on a socket that listens already. It serves one message after the other with the very
handlers of ``client_app.app`` and ends when it has been idle too long, when it is asked for something else than it has
loaded, or when Flower's superexec, for which it was started, ends; its memory, an accelerator's too, is free then. It
ends at once when the ClientApp goes away that waits for what it computes: the next one would wait for that in vain.
"""

import fcntl
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.common.serde import context_from_proto, message_from_proto, recorddict_to_proto
from flwr.proto.message_pb2 import Context as ContextProto
from flwr.proto.message_pb2 import Message as MessageProto
from google.protobuf.message import DecodeError, EncodeError

from client_app.rows import doubt, in_doubt, rows_allowed
from client_app.worker_link import PROTOCOL, Frame, WorkerError, check_peer, check_size, socket_path
from common.printable import printable
from common.private_files import private_files
from common.wire.digest import app_digest

_FRAME_SECONDS = 60.0  # for a whole frame to arrive or to leave; the other end is a process on this machine
_MEMORY = (MemoryError, EncodeError)  # what is raised for want of it; the second by protobuf
_LONGEST_LINE = 4000  # of the log
_KILLED_FIRST = b"1000"  # the most that oom_score_adj takes; anybody may raise it
_log = logging.getLogger("dr-encoder.worker")


@dataclass
class Worker:
    """Serves the ClientApps of one node.

    Attributes:
        listener: the listening socket.
        parent: a process descriptor (pidfd); the worker ends with that process.
        folder: descriptor of the folder that holds the socket.
        idle: seconds without a message after which the worker ends.
        loaded: hash of what it has loaded, ``""`` before the first message.

    """

    listener: socket.socket
    parent: int
    folder: int
    idle: float
    loaded: str = ""

    def serve(self) -> None:
        """Answer messages until it is time to end."""
        while self._wait():
            connection, _ = self.listener.accept()
            with connection:
                if not self._serve_one(connection):
                    break
        self._remove_socket()

    def _wait(self) -> bool:
        while True:
            ready = select.select([self.listener.fileno(), self.parent], [], [], self.idle)[0]
            if ready or self._alone():
                break
        if self.parent in ready or not ready:
            _log.info("ends: %s", "superexec is gone" if ready else f"idle for {self.idle:.0f} s")
            return False
        return True

    def _serve_one(self, connection: socket.socket) -> bool:
        """Answer one frame; false when this worker must make room for another."""
        try:
            check_peer(connection)
            try:
                reply = self._exchange(connection)
            except WorkerError as error:  # told, since a connection that only closes means that the worker has died
                _log.warning("refused: %s", error)
                reply = Frame(_failure(error))
                reply.send(connection, time.monotonic() + _FRAME_SECONDS)
        except (WorkerError, OSError) as error:  # another user, or a peer that has gone: the next one is served
            _log.warning("a ClientApp was not answered: %s", error)
            return True
        if _device_lost():
            _log.error("ends: its accelerator is beyond use; the next message gets another worker")
            return False
        return str(reply.header["status"]) != "retired"

    def _exchange(self, connection: socket.socket) -> Frame:
        """Receive, compute, send; what was sent. A ``WorkerError`` is raised before anything is sent."""
        frame = Frame.receive(connection, time.monotonic() + _FRAME_SECONDS)
        with self._wanted(connection):
            reply = self._reply(frame)
        reply.send(connection, time.monotonic() + _FRAME_SECONDS)
        return reply

    def _reply(self, frame: Frame) -> Frame:
        wanted = str(frame.header.get("loaded", ""))
        if (frame.header.get("protocol"), frame.header.get("app")) != (PROTOCOL, app_digest()):
            _log.info("ends: asked for other code")
            return Frame({"status": "retired"})
        if self.loaded not in {"", wanted}:
            _log.info("ends: asked for another model or other data than it has loaded")
            return Frame({"status": "retired"})
        self.loaded = wanted
        own_data = frame.header.get("own-data") is True
        with rows_allowed(frame.header.get("rows", True) is True, str(frame.header.get("message", ""))):
            try:
                message, context = _open(frame)
            except WorkerError:  # protobuf says no other when there is no memory, which kept rows take
                _end_if_in_doubt(wants_memory=own_data)
                raise
            return _handle(message, context, own_data=own_data)

    @contextmanager
    def _wanted(self, connection: socket.socket) -> Iterator[None]:
        """End this process as soon as nobody waits for what the block computes any more.

        As a kill would, which all that is on disk must survive anyway (the next worker replaces the socket's file); an
        exception in the middle of anything would leave half of it in memory.
        """
        done = os.eventfd(0)
        watch = threading.Thread(target=self._end_unless, args=(done, connection.fileno()), daemon=True)
        watch.start()
        try:
            yield
        finally:
            os.eventfd_write(done, 1)
            watch.join()
            os.close(done)

    def _end_unless(self, done: int, connection: int) -> None:
        poller = select.poll()
        poller.register(done, select.POLLIN)
        poller.register(self.parent, select.POLLIN)
        poller.register(connection, select.POLLRDHUP)
        ready = {descriptor for descriptor, _ in poller.poll()}
        if done in ready:
            return
        _log.info("ends: %s while it computes", "superexec is gone" if self.parent in ready else "the ClientApp left")
        os._exit(0)

    def _alone(self) -> bool:
        """Take the folder's lock, for good; false while a ClientApp holds it, which may be about to connect.

        To that one a worker that ends now would have died, and over rows, for all that it can know.
        """
        try:
            fcntl.flock(self.folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _remove_socket(self) -> None:
        """Only under the folder's lock: a ClientApp that holds it may be about to start the next worker."""
        if self._alone():
            with suppress(FileNotFoundError):
                os.unlink(socket_path(self.folder))  # noqa: PTH108 - through the descriptor, see ``socket_path``


def _device_lost() -> bool:
    """Whether an accelerator in use fails at every call from now on, as CUDA does after an assertion in a kernel.

    All later answers, of whichever run, would be noise around nothing.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return False
    try:
        for number in range(torch.cuda.device_count()):
            if torch.cuda.memory_allocated(number):  # no context is made where there is none
                torch.cuda.synchronize(number)
    except RuntimeError:
        _log.exception("the accelerator does not answer")
        return True
    return False


class _SetIn(logging.Formatter):
    """Sets in all lines of a record but the first: none that a server has written passes for a record of its own."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n    ".join(printable(line, _LONGEST_LINE) for line in super().format(record).splitlines())


def _open(frame: Frame) -> tuple[Message, Context]:
    if len(frame.parts) != 2:
        raise WorkerError(f"an instruction of {len(frame.parts)} parts")
    try:
        message = message_from_proto(MessageProto.FromString(frame.parts[0]))
        return message, context_from_proto(ContextProto.FromString(frame.parts[1]))
    except (DecodeError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WorkerError(f"not a message and a context of Flower: {error}") from None


def _handle(message: Message, context: Context, *, own_data: bool) -> Frame:
    from client_app.app import app  # noqa: PLC0415 - a worker that is not needed after all spares the seconds
    from common.wire.records import LACKS  # noqa: PLC0415 - the same

    metadata = message.metadata
    who = f"run={metadata.run_id} round={printable(metadata.group_id[1:])} node={context.node_id}"
    kind = printable(metadata.message_type)
    content = _pack(RecordDict())
    try:
        reply = app(message, context)
        answer = _pack(reply.content)
        check_size(answer)  # here, since its failure still takes the state along, with what was charged
        header, content = {"status": "done"}, answer
        _log.info("%s %s %s", who, "lacks what belongs to" if LACKS in reply.content else "answered", kind)
    except Exception as error:  # whatever a handler raises goes back as it would from the ClientApp's own process
        _end_if_in_doubt(wants_memory=own_data and isinstance(error, _MEMORY))
        header = _failure(error)
        _log.exception("%s failed on %s", who, kind)
    return Frame(header, (_pack(context.state), content))


def _end_if_in_doubt(*, wants_memory: bool) -> None:
    """End this process over a failure that may be the doing of rows, as one that ``wants_memory`` may."""
    if wants_memory:
        doubt()
    if in_doubt():
        _log.exception("ends: what failed may be for want of the memory that rows take")
        os._exit(1)


def _failure(error: Exception) -> dict[str, str]:
    return {"status": "failed", "type": type(error).__name__, "text": printable(str(error), _LONGEST_LINE)}


def _pack(records: RecordDict) -> bytes:
    return bytes(recorddict_to_proto(records).SerializeToString())


def _offer_itself() -> None:
    """Let the system, where memory is short, kill this process and no other: what waits for its answer must live.

    That one is as large as a server makes its messages. Killed in its place, it left the site silent, and whether it
    was could hang on the memory that rows take here; a worker that is killed is followed by one without the rows.
    """
    with suppress(OSError):  # a kernel without it
        Path("/proc/self/oom_score_adj").write_bytes(_KILLED_FIRST)


def main(arguments: Sequence[str]) -> None:
    """Serve on inherited descriptors: listening socket, parent (pidfd), folder; then the idle seconds."""
    listener, parent, folder, idle = int(arguments[0]), int(arguments[1]), int(arguments[2]), float(arguments[3])
    _offer_itself()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the operator's Ctrl-C ends superexec, and that ends the worker
    handler = logging.StreamHandler()
    handler.setFormatter(_SetIn(f"%(asctime)s %(levelname)s worker[{os.getpid()}] %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("flwr").handlers.clear()  # Flower's own would write a server's text as it is
    with private_files(), socket.socket(fileno=listener) as listening:
        Worker(listening, parent, folder, idle).serve()
