"""The worker's socket: frames, and who may write them."""

import os
import socket
import stat
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import psutil
import pytest

from client_app import worker_link
from client_app.worker_link import Frame, WorkerError
from tests.support.worker_runs import ask, context, dial, gone, socket_file, soon


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
            Frame.receive(other, start + 0.5)
        assert time.monotonic() - start < 3.0
    thread.join()


def test_a_letter_that_nobody_reads_is_given_up_at_the_deadline() -> None:
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other, pytest.raises(TimeoutError):
        Frame({}, (bytes(1 << 22),)).send(one, time.monotonic() + 0.3)


def test_a_peer_that_has_all_that_it_waits_for_may_go() -> None:
    """An empty part at the end is nothing to write: the log said that a ClientApp had not been answered."""
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other:
        Frame({}, (b"state", b"")).send(one, soon())
        assert Frame.receive(other, soon()).parts == (b"state", b"")
    sent: list[bytes] = []
    stand_in = SimpleNamespace(settimeout=lambda _: None, sendall=sent.append)
    Frame({}, (b"",)).send(cast("socket.socket", stand_in), soon())
    assert all(sent)


@pytest.mark.parametrize("header", [b"[" * 200_000, b'{"a":' * 200_000], ids=["lists", "objects"])
def test_a_header_nested_beyond_the_stack_is_no_letter(header: bytes) -> None:
    one, other = socket.socketpair(socket.AF_UNIX)
    thread = threading.Thread(target=lambda: one.sendall(b"\x01" + len(header).to_bytes(8, "big") + header))
    with one, other:
        thread.start()
        with pytest.raises(WorkerError, match="a header that is not JSON"):
            Frame.receive(other, time.monotonic() + 30.0)
        thread.join()


@pytest.mark.usefixtures("_stand_in")
def test_a_worker_outlives_a_header_nested_beyond_the_stack(tmp_path: Path) -> None:
    place, header = context(), b"[" * 200_000
    pid = ask("one", place)["pid"]
    with dial(tmp_path) as connection:
        connection.sendall(b"\x01" + len(header).to_bytes(8, "big") + header)
        connection.recv(1)
    assert ask("two", place)["pid"] == pid


@pytest.mark.usefixtures("_stand_in")
def test_other_code_under_the_same_socket_is_never_served(tmp_path: Path) -> None:
    first = ask("one", context())
    with dial(tmp_path) as connection:
        Frame({"protocol": worker_link.PROTOCOL, "app": "other", "loaded": ""}, (b"-", b"-")).send(connection, soon())
        assert Frame.receive(connection, soon()).header == {"status": "retired"}
    assert gone(first["pid"])


@pytest.mark.usefixtures("_stand_in")
def test_socket_and_folders_are_for_the_owner_only(tmp_path: Path) -> None:
    ask("one", context())
    path = socket_file(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for folder in (path.parent, path.parent.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.usefixtures("_stand_in")
def test_garbage_on_the_socket_costs_the_worker_nothing(tmp_path: Path) -> None:
    place = context()
    pid = ask("one", place)["pid"]
    before = psutil.Process(pid).memory_info().rss
    for garbage in (b"", b"\x00", b"\xff" * 64, b"\x01" + b"\x7f" * 8, b"\x01" + (1 << 29).to_bytes(8, "big") + b"{"):
        with dial(tmp_path) as connection:
            connection.sendall(garbage)
    assert ask("two", place)["pid"] == pid
    assert psutil.Process(pid).memory_info().rss < before + (64 << 20)


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
