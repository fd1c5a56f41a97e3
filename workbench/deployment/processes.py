"""Named processes, each in a session of its own with a log of its own, stopped as a whole."""

import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from common.private_files import OWNER_ONLY, private_files
from workbench.stopping import stop_tree

_GRACE_SECONDS = 10.0


class Processes:
    """Started processes by name; as a context manager it stops all of them, the last one first."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "Processes":
        with private_files():
            self.logs.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        with ExitStack() as stack:  # all of them, though stopping one fails or is interrupted
            for name in list(self._running):
                stack.callback(self.stop, name)

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str], folder: Path) -> int:
        """Start a program in ``folder`` with its output appended to ``<name>.log``; returns its process id."""
        if self.is_running(name):
            raise ValueError(f'process "{name}" is running already')
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with private_files(), self.log(name).open("ab") as log:
            self._running[name] = subprocess.Popen(  # noqa: S603 - Flower's own programs, no shell
                command, cwd=folder, env=dict(environment), stdout=log, stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL, start_new_session=True, umask=OWNER_ONLY,
            )  # fmt: skip
        return self._running[name].pid

    def log(self, name: str) -> Path:
        """Where a process writes."""
        return self.logs / f"{name}.log"

    def is_running(self, name: str) -> bool:
        """Whether a process of this name was started and has not ended."""
        return name in self._running and self.exit_code(name) is None

    def exit_code(self, name: str) -> int | None:
        """The exit code of a process, ``None`` while it runs."""
        return self._running[name].poll()

    def pid(self, name: str) -> int:
        """The process id under a name."""
        return self._running[name].pid

    def kill(self, name: str) -> None:
        """End one process as a crash would (SIGKILL); what it started lives on until it notices."""
        process = self._running.pop(name)
        process.kill()
        process.wait()

    def stop(self, name: str) -> None:
        """End a process and everything that descends from it, politely first."""
        stop_tree(self._running.pop(name), _GRACE_SECONDS)
