"""How a ClientApp and the resident worker of its node talk: a private folder, a Unix socket, frames of known length.

Imports nothing heavy: Flower starts the ClientApp anew for every message, and this is all that it needs. Linux only.
"""

import json
import os
import socket
import stat
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.private_files import own_folder

PROTOCOL = 1
MAX_FRAME = 1 << 30  # bytes; a message beyond it is refused before memory is spent on it
_MAX_PARTS = 4
_LENGTH = struct.Struct(">Q")
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid
_PIECE = 1 << 20
_LONGEST_WAIT = 1e6  # seconds for one piece; what a poll takes in milliseconds ends at 2^31


class WorkerError(RuntimeError):
    """The worker cannot be had or trusted, or it failed on a message; the text is fit to be told to the server."""


@dataclass(frozen=True)
class Frame:
    """What goes over the socket in one direction: a small JSON header and binary parts (protobuf)."""

    header: Mapping[str, Any]
    parts: tuple[bytes, ...] = field(default=())

    def send(self, connection: socket.socket, deadline: float) -> None:
        """Write the frame: count of frames, then each frame with its length ahead.

        ``deadline`` is of ``time.monotonic`` and for the whole frame: ``TimeoutError`` beyond it. A frame that is too
        large is a ``WorkerError`` before anything is written.
        """
        frames = (json.dumps(self.header).encode(), *self.parts)
        for frame in frames:
            check_size(frame)
        for piece in (bytes([len(frames)]), *(part for frame in frames for part in (_LENGTH.pack(len(frame)), frame))):
            _wait_until(connection, deadline)
            if piece:  # who has all that it waits for may have gone
                connection.sendall(piece)  # its timeout is for all of the piece

    @classmethod
    def receive(cls, connection: socket.socket, deadline: float) -> "Frame":
        """Read one frame; ``ConnectionError`` when the peer goes away, ``WorkerError`` when it is no frame.

        ``deadline`` is of ``time.monotonic`` and for the whole frame: ``TimeoutError`` beyond it.
        """
        count = _exactly(connection, 1, deadline)[0]
        if not 1 <= count <= _MAX_PARTS:
            raise WorkerError(f"a letter of {count} frames")
        frames = [_frame(connection, deadline) for _ in range(count)]
        try:
            header = json.loads(frames[0])
        except (ValueError, RecursionError) as error:  # the second: nested deeper than Python's stack
            raise WorkerError(f"a header that is not JSON: {error}") from None
        if not isinstance(header, dict):
            raise WorkerError(f"a header that is a {type(header).__name__}")
        return cls(header, tuple(frames[1:]))


def check_size(frame: bytes) -> None:
    """Raise ``WorkerError`` for a frame that no frame may have."""
    if len(frame) > MAX_FRAME:
        raise WorkerError(f"a frame of {len(frame)} bytes, above {MAX_FRAME}")


def check_peer(connection: socket.socket) -> None:
    """Raise ``WorkerError`` unless the other end is this very user (``SO_PEERCRED``)."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(raw)
    if uid != os.geteuid():
        raise WorkerError(f"the other end of the worker's socket is user {uid}, not {os.geteuid()}")


def open_folder(name: str) -> int:
    """A descriptor of the private folder (0700) of one node and app version, made where it is missing."""
    base = own_folder()
    os.close(_private(base))
    return _private(base / name)


def socket_path(folder: int) -> str:
    """The worker's socket in an open folder; short whatever the folder's path, since the kernel allows 107 bytes."""
    return f"/proc/self/fd/{folder}/socket"


def _private(path: Path) -> int:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise WorkerError(f"the worker's folder is not a directory of its own: {error.strerror}") from None
    found = os.fstat(descriptor)
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        os.close(descriptor)
        raise WorkerError("the worker's folder belongs to somebody else or is open to others; remove it")
    return descriptor


def _frame(connection: socket.socket, deadline: float) -> bytes:
    (length,) = _LENGTH.unpack(_exactly(connection, _LENGTH.size, deadline))
    if length > MAX_FRAME:
        raise WorkerError(f"a frame of {length} bytes, above {MAX_FRAME}")
    return _exactly(connection, length, deadline)


def _exactly(connection: socket.socket, length: int, deadline: float) -> bytes:
    """Memory grows with what has come, never with what was announced."""
    data = bytearray()
    while len(data) < length:
        _wait_until(connection, deadline)
        piece = connection.recv(min(length - len(data), _PIECE))
        if not piece:
            raise ConnectionError("the peer went away in the middle of a letter")
        data += piece
    return bytes(data)


def _wait_until(connection: socket.socket, deadline: float) -> None:
    """Let the next call on the connection take no longer; anew for each, or a slow peer could take for ever."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("the time for this letter is over")
    connection.settimeout(min(left, _LONGEST_WAIT))
