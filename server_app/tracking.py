"""Progress of long work: who does it says how far it is, who watches decides how that is shown.

``tracked`` wraps the loop that takes long, wherever it is; ``reporting`` says who is told, ``watched`` tells a person
at a terminal by a bar, and a pipe by a plain line now and then. Nothing is said of what is done within seconds.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from server_app.terminal import clock

_FIRST, _EVERY = 5.0, 15.0  # seconds of silence before the first plain line, and between two
_HOUR = 3600.0  # rich forgets its pace after 30 s unless told otherwise
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Step:
    """How far a piece of work is: ``done`` of ``total`` after ``seconds``."""

    what: str
    done: int
    total: int
    seconds: float

    @property
    def left(self) -> float:
        """Seconds that the rest takes at this pace."""
        return self.seconds / self.done * (self.total - self.done)

    def __str__(self) -> str:
        return f"{self.what}: {self.done:,} of {self.total:,}, about {clock(self.left)} left"


Reporter = Callable[[Step], None]
_reporter: ContextVar[Reporter | None] = ContextVar("reporter", default=None)
_phase: ContextVar[str] = ContextVar("phase", default="")


def tracked(items: Sequence[_Item], what: str) -> Iterator[_Item]:
    """The items one after the other; after each, whoever is told of this work is told of it."""
    tell = _reporter.get()
    name = f"{_phase.get()}{what}"
    started = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        if tell is not None:
            tell(Step(name, done, len(items), time.monotonic() - started))


@contextmanager
def reporting(reporter: Reporter) -> Iterator[None]:
    """Have ``reporter`` told of all tracked work within."""
    token = _reporter.set(reporter)
    try:
        yield
    finally:
        _reporter.reset(token)


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Put ``name`` before what is said of the tracked work within."""
    token = _phase.set(f"{name}, ")
    try:
        yield
    finally:
        _phase.reset(token)


class Lines:
    """Tells of work by a plain line: first after some seconds, then at intervals.

    Args:
        say: prints a line.
        first: seconds of work before anything is said of it.
        every: seconds between two lines.

    """

    def __init__(self, say: Callable[[str], None], first: float = _FIRST, every: float = _EVERY) -> None:
        self._say, self._first, self._every = say, first, every
        self._said = -every

    def __call__(self, step: Step) -> None:
        """Say it if it is time."""
        now = time.monotonic()
        if step.done < step.total and step.seconds >= self._first and now - self._said >= self._every:
            self._said = now
            self._say(str(step))


class Bars:
    """Tells of work by a bar for each piece, which goes when the piece is done."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, step: Step) -> None:
        """Move the bar."""
        if step.what not in self._tasks:
            self._tasks[step.what] = self._progress.add_task(step.what, total=step.total)
        self._progress.update(self._tasks[step.what], completed=step.done)
        if step.done == step.total:
            self._progress.remove_task(self._tasks.pop(step.what))


@contextmanager
def watched() -> Iterator[None]:
    """Show the tracked work within on standard error: bars on a terminal, else plain lines."""
    console = Console(stderr=True)
    if not console.is_terminal:
        with reporting(Lines(_to_stderr)):
            yield
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("left"))
    with (
        Progress(
            *columns, TimeRemainingColumn(), console=console, transient=True, speed_estimate_period=_HOUR
        ) as progress,
        reporting(Bars(progress)),
    ):
        yield


@contextmanager
def patience(what: str, first: float = _FIRST, every: float = _EVERY) -> Iterator[None]:
    """Say now and then that ``what`` is still under way, where nobody can tell how far it is."""
    console = Console(stderr=True)
    if console.is_terminal:
        with console.status(what):
            yield
        return
    over, started = threading.Event(), time.monotonic()

    def tell() -> None:
        pause = first
        while not over.wait(pause):
            _to_stderr(f"{what}: {clock(time.monotonic() - started)} so far")
            pause = every

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        over.set()
        teller.join()


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
