"""Progress of long work: who does it says how far it is, who watches decides how that is shown.

``tracked`` wraps the loop that takes long, wherever it is. ``watched`` tells a person at a terminal by bars, and a pipe
or a log by a plain line now and then; of what is done within seconds a pipe is told nothing.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from server_app.results.units import clock

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
    tell = counted(what, len(items))
    for done, item in enumerate(items, start=1):
        yield item
        tell(done)


def counted(what: str, total: int) -> Callable[[int], None]:
    """A function that tells whoever is told of this work how many of ``total`` are done, for what is no plain loop."""
    reporter, name, started = _reporter.get(), f"{_phase.get()}{what}", time.monotonic()

    def tell(done: int) -> None:
        if reporter is not None and done:
            reporter(Step(name, done, total, time.monotonic() - started))

    return tell


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


class _Teller:
    """Tells of work by a plain line: first after some seconds, then at intervals; by a clock where no steps are told.

    Args:
        what: the work as a whole.
        say: prints a line.
        first: seconds before the first line.
        every: seconds between two lines.

    """

    def __init__(self, what: str, say: Callable[[str], None], first: float, every: float) -> None:
        self._what, self._say, self._first, self._every = what, say, first, every
        self._step: Step | None = None
        self._over, self._started = threading.Event(), time.monotonic()
        self._thread = threading.Thread(target=self._tell, daemon=True)

    def __call__(self, step: Step) -> None:
        """Note how far it is."""
        self._step = step

    def __enter__(self) -> "_Teller":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _tell(self) -> None:
        pause = self._first
        with suppress(BrokenPipeError):  # nobody reads it, which the work itself will find out and end in order
            while not self._over.wait(pause):
                step, pause = self._step, self._every
                under_way = step is not None and step.done < step.total
                self._say(str(step) if under_way else f"{self._what}: {clock(time.monotonic() - self._started)} so far")


class _Bars:
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
def watched(
    what: str, say: Callable[[str], None] | None = None, first: float = _FIRST, every: float = _EVERY
) -> Iterator[None]:
    """Show the work within, and what of it is tracked: by plain lines through ``say``, or on standard error.

    On standard error there are bars where that is a terminal, else lines: ``first`` seconds after the start, then
    every ``every`` seconds. It is the standard error of the start: who hides a library's chatter does not hide this.
    """
    stream = sys.stderr
    console = Console(file=stream)
    if say is None and console.is_terminal:
        with _bars(console, what):
            yield
        return
    with _Teller(what, say or partial(print, file=stream, flush=True), first, every) as teller, reporting(teller):
        yield


@contextmanager
def _bars(console: Console, what: str) -> Iterator[None]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("left"))
    progress = Progress(*columns, TimeRemainingColumn(), console=console, transient=True, speed_estimate_period=_HOUR)
    with progress, reporting(_Bars(progress)):
        progress.add_task(what, total=None)
        yield
