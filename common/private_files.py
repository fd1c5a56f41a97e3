"""Files that only their owner can read: everything that the app writes, but for what is meant to be published."""

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

OWNER_ONLY = 0o077  # umask: files are 0600, folders 0700


@contextmanager
def private_files() -> Iterator[None]:
    """Within this block every new file is 0600 and every new folder 0700, whoever writes it and in whatever library.

    So it is in processes that are started here too, and whatever umask this one came with, which is set again behind.
    """
    previous = os.umask(OWNER_ONLY)
    try:
        yield
    finally:
        os.umask(previous)


def close_to_others(folder: Path) -> None:
    """Take all rights of group and others away from a folder and all that is in it; links are not followed.

    A file may go meanwhile: a run that is under way replaces its own.
    """
    for path in (folder, *folder.rglob("*")):
        with suppress(FileNotFoundError):
            if not path.is_symlink():
                path.chmod(0o700 if path.is_dir() else 0o600)


def open_to_others(path: Path) -> None:
    """Let everybody read a file, or a folder and all that is in it; links are not followed, be it the path itself."""
    if path.is_symlink():  # of a run's folder that somebody else has made: what it names is not meant
        return
    for found in (path, *path.rglob("*")):
        if not found.is_symlink():
            found.chmod(0o755 if found.is_dir() else 0o644)


def own_folder() -> Path:
    """Where this user's processes keep what they share while they run: in ``XDG_RUNTIME_DIR``, else a temporary folder.

    Its name can be foretold, so it may be somebody else's: see ``private_folder``.
    """
    return Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()) / f"dr-encoder-{os.geteuid()}"


def private_folder(path: Path) -> None:
    """Make a folder that only its owner can enter, where it is missing.

    Raises ``PermissionError`` when it is somebody else's, open to others, or a link.
    """
    with private_files():
        path.mkdir(parents=True, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & OWNER_ONLY:
        raise PermissionError(f"{path} is no folder of this user alone (mode 0700)")


def private_file(path: Path) -> None:
    """Let a file be there that only its owner can read, before a library or a shell's redirection writes into it.

    Others lose their rights on one that is there already: what made it may have left it open. Raises
    ``PermissionError`` for one of another user, who could read it whatever its mode, for one of several names, and for
    what is no file.
    """
    try:
        place = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    except OSError as error:
        raise PermissionError(f"{path} is no file of this user alone ({error.strerror})") from None
    try:
        found = os.fstat(place)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_nlink > 1:
            raise PermissionError(f"{path} is no file of this user alone")
        os.fchmod(place, 0o600)
    finally:
        os.close(place)
