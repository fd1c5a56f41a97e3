"""The ledger of a run: an append-only file of charges, each on disk before the release it pays for.

One JSON object per line, chained by SHA-256, so that a line changed, removed or reordered inside the file is
noticed. Cutting whole lines off the end cannot be seen in the file itself: keep ``head`` with the checkpoint
and ask ``contains``.

A torn last line, from a crash in mid-write, is cut off when it cannot be read: ``charge`` had not returned,
so the release had not happened. If the line is whole but for its newline it is kept, as spent. Either way the
total is never lower than what was released.
"""

import fcntl
import hashlib
import json
import os
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common.privacy.accounting import Charge
from server_app.errors import CommandError

GENESIS = "0" * 64
"""What the first line is chained to, and the head of an empty ledger."""


class LedgerError(CommandError):
    """The file is not a ledger, or has been tampered with: nothing may be released on its word."""


class Ledger:
    """Charges in the order of release, replayed from ``path`` on opening; processes may share a file.

    ``read_only``: the file is left as it is, and nothing can be charged; a torn end that cannot be read is passed over.
    Raises ``LedgerError`` if a complete line does not belong where it stands, ``OSError`` if there is no such file.
    """

    def __init__(self, path: str | os.PathLike[str], *, read_only: bool = False) -> None:
        self._path = Path(path)
        self._read_only = read_only
        self._end = 0
        self._charges: list[Charge] = []
        self._heads = [GENESIS]
        self._rounds: Counter[int] = Counter()
        if read_only:
            with self._locked():
                return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._locked() as descriptor:
            os.fsync(descriptor)
        _sync_directory(self._path.parent)

    @property
    def charges(self) -> tuple[Charge, ...]:
        """All charges, oldest first."""
        return tuple(self._charges)

    @property
    def head(self) -> str:
        """Hash of the last line; whoever notes it can later tell that nothing up to it was cut off."""
        return self._heads[-1]

    def contains(self, head: str) -> bool:
        """Whether ``head`` was the head of this ledger once: False if it has been cut or replaced."""
        return head in self._heads

    def rounds_charged(self, round_index: int) -> int:
        """How many times round ``round_index`` has been charged.

        After a crash between charge and release, a re-release with *fresh* noise must be charged again;
        sending the very same bytes again need not be.
        """
        return self._rounds[round_index]

    def charge(self, charge: Charge, *, round_index: int, note: str = "") -> None:
        """Append ``charge`` and force it to disk; only when this has returned may the release happen.

        Lines other processes appended meanwhile are replayed first. Raises ``OSError`` if the line cannot be
        written (then nothing may be released), ``LedgerError`` if the file changed otherwise.
        """
        with self._locked() as descriptor:
            line = _encode(len(self._charges), self.head, charge, round_index, note)
            _write_all(descriptor, line)
            os.fsync(descriptor)
            self._accept(line.rstrip(b"\n"))
            self._end += len(line)

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """Open the file, lock it exclusively and replay it to its end."""
        flags = os.O_RDONLY | os.O_NONBLOCK if self._read_only else os.O_RDWR | os.O_CREAT | os.O_APPEND
        descriptor = os.open(self._path, flags, 0o600)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):  # a pipe would be waited for
                raise LedgerError(f"{self._path} is no file")
            fcntl.flock(descriptor, fcntl.LOCK_SH if self._read_only else fcntl.LOCK_EX)
            self._replay(descriptor)
            yield descriptor
        finally:
            os.close(descriptor)

    def _replay(self, descriptor: int) -> None:
        """Take in everything beyond what is known already; repair a torn end."""
        size = os.fstat(descriptor).st_size
        if size < self._end:
            raise LedgerError(f"{self._path} has shrunk from {self._end} to {size} bytes")
        pending = _read(descriptor, self._end, size)
        *whole, torn = pending.split(b"\n")
        for line in whole:
            self._accept(line)
            self._end += len(line) + 1
        if torn:
            self._repair(descriptor, torn)

    def _repair(self, descriptor: int, torn: bytes) -> None:
        if self._read_only:
            with suppress(LedgerError):
                self._accept(torn)
            return
        try:
            self._accept(torn)
        except LedgerError:
            os.ftruncate(descriptor, self._end)
        else:
            os.write(descriptor, b"\n")
            self._end += len(torn) + 1
        os.fsync(descriptor)

    def _accept(self, line: bytes) -> None:
        """Verify one line against the chain and take it in."""
        place = f"{self._path}, line {len(self._charges) + 1}"
        try:
            entry = json.loads(line)
            charge, round_index = Charge(**entry["charge"]), int(entry["round"])
            expected = _encode(len(self._charges), self.head, charge, round_index, entry["note"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise LedgerError(f"{place}: not a ledger entry ({error})") from error
        if expected.rstrip(b"\n") != line:
            raise LedgerError(f"{place}: the chain is broken; the file was changed after it was written")
        self._charges.append(charge)
        self._rounds[round_index] += 1
        self._heads.append(entry["hash"])


def _encode(index: int, previous: str, charge: Charge, round_index: int, note: str) -> bytes:
    """One line, its hash over everything else in it and over the hash before."""
    entry: dict[str, Any] = {
        "index": index,
        "round": round_index,
        "charge": asdict(charge),
        "note": note,
        "previous": previous,
    }
    text = json.dumps(entry, allow_nan=False)
    entry["hash"] = hashlib.sha256(text.encode()).hexdigest()
    return json.dumps(entry, allow_nan=False).encode() + b"\n"


def _read(descriptor: int, start: int, end: int) -> bytes:
    parts = []
    while start < end:
        part = os.pread(descriptor, end - start, start)
        if not part:
            break
        parts.append(part)
        start += len(part)
    return b"".join(parts)


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _sync_directory(path: Path) -> None:
    """Make the file's name as durable as its content."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
