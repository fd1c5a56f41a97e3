"""Where a run's results go: whether they can, asked before anything is loaded or started."""

import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from common.config import ConfigError, OutputConfig
from common.own_files import writers
from server_app.results.resuming import taken

_LATEST = "latest"  # the link to the last run
_TRIES = 3  # at a place that other starts may try too
_LONGEST = 200  # bytes of a name, so that its log has one too


def check_output(output: OutputConfig, resume: str = "") -> None:
    """Refuse a folder that has the run's name already, or cannot be made; nothing is left behind.

    Raises ``ConfigError``.
    """
    name, place = output.name, Path(output.dir).resolve()
    _check_nobody_swaps(Path(resume).resolve().parent if resume else place)
    if resume:
        return
    if name and (Path(name).name != name or name in (".", "..", _LATEST) or not name.isprintable() or not name.strip()):
        raise ConfigError(
            f'output.name = "{name}": give the plain name of a folder in output.dir, other than "{_LATEST}"'
        )
    if len(os.fsencode(name)) > _LONGEST:
        raise ConfigError(f'output.name = "{name[:40]}...": longer than {_LONGEST} bytes; give a shorter name')
    why = write_fault(place)
    if why:
        raise ConfigError(f'output.dir = "{output.dir}": {why}; name a folder that you may write into')
    if name and (place / name).exists():
        raise taken(place / name)


def _check_nobody_swaps(place: Path) -> None:
    """Refuse a folder in which every user or a group may put another in a run's place, and so read what it writes."""
    if place.is_dir() and (others := writers(place)):
        raise ConfigError(
            f'output.dir = "{place}": {others.who} may rename what lies in it; close it (chmod {others.close}), or let '
            "only owners rename (chmod +t)"
        )


def check_file(path: Path, reads: Sequence[Path] = ()) -> None:
    """Refuse a file that cannot be written, or that is one of ``reads`` or lies in one; raises ``ConfigError``."""
    own = path.resolve()
    if own.is_file() and any(own.is_relative_to(read.resolve()) for read in reads if read != Path()):
        raise ConfigError(
            f'--out "{path}": it is, or lies in, what is read here, and would be overwritten; name another file'
        )
    why = f"{path} is a directory" if path.is_dir() else write_fault(path.absolute().parent, make=False)
    if why:
        raise ConfigError(f'--out "{path}": {why}; name a file in a folder that you may write into')


def write_fault(place: Path, *, make: bool = True) -> str:
    """Why nothing can be written in ``place``, made if need be, or ``""``: it is tried, and leaves nothing behind.

    Another start may try the same at the same moment, and take away what it has made: then once more.
    """
    above = next(folder for folder in (place, *place.parents) if folder.exists())
    if not above.is_dir():
        return f"{above} is a file"
    if above != place and not make:
        return f"there is no folder {place}"
    fault = ""
    for _ in range(_TRIES):
        try:
            _write_nothing(place)
        except OSError as error:
            fault = f"{error.filename or place}: {error.strerror}"
        else:
            return ""
    return fault


def _write_nothing(place: Path) -> None:
    """Make the place, write into it, take all that was made away again; raises ``OSError``."""
    made: list[Path] = []
    try:
        for folder in [*reversed(place.parents), place]:
            if not folder.exists():
                folder.mkdir(exist_ok=True)
                made.append(folder)
        with tempfile.TemporaryDirectory(dir=place):
            pass
    finally:
        with suppress(OSError):  # another start is at work there by now
            for folder in reversed(made):
                folder.rmdir()
