"""Ends what was started, whatever ends the program that started it: its own end, a signal, or ``kill -9``."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

_STOP_SECONDS = 15.0
_SWEEPS = 3  # what is stopped may start another meanwhile


@contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """Let SIGTERM, and SIGHUP of a terminal that goes, unwind like Ctrl-C: whatever was started is stopped as well.

    One that is ignored (``nohup``) stays so.
    """

    def interrupt(_signal: int, _frame: object) -> None:
        for number in previous:
            signal.signal(number, signal.SIG_IGN)  # a second one must not cut the cleaning up short
        raise KeyboardInterrupt

    found = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    previous = {number: handler for number, handler in found.items() if handler is not signal.SIG_IGN}
    for number in previous:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def kept(home: Path) -> Iterator[None]:
    """Have a small process stop what was started under ``home``, and remove that folder, should this one be killed.

    It waits for the end of a pipe that this process alone holds open, in a session of its own: no signal from the
    terminal and no kill of this process's group is for it.
    """
    command = [sys.executable, "-P", __file__, str(home)]
    keeper = subprocess.Popen(  # noqa: S603 - this interpreter, no shell
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/",
        start_new_session=True,
    )  # fmt: skip
    try:
        yield
    finally:
        keeper.kill()
        keeper.communicate()


def stop_tree(process: subprocess.Popen[bytes], patience: float = _STOP_SECONDS) -> None:
    """End a process and all that descends from it (some lead sessions of their own), politely for so many seconds."""
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    process.terminate()
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    _end(family)


def stop_orphans(home: Path) -> None:
    """End what is nobody's child since its parent was killed, with all below it: its ``FLWR_HOME`` is in ``home``.

    A SuperLink that was killed leaves a simulation that goes on by itself, and may hold the run's folder.
    """
    for _ in range(_SWEEPS):
        if family := _orphans(home):
            _end(family)


def _orphans(home: Path) -> set[psutil.Process]:
    found: set[psutil.Process] = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):  # another user's, or gone
            if Path(process.environ().get("FLWR_HOME", "/")).is_relative_to(home):
                found |= {process, *process.children(recursive=True)}
    return found


def _end(family: Iterable[psutil.Process]) -> None:
    for stop in (psutil.Process.terminate, psutil.Process.kill):
        for member in family:
            with suppress(psutil.NoSuchProcess):
                stop(member)
        _, family = psutil.wait_procs(family, timeout=3.0)


def main() -> None:
    """Wait for the end of the program that has started this one, then see to what it has left."""
    sys.stdin.buffer.read()
    home = Path(sys.argv[1])
    stop_orphans(home)
    shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
