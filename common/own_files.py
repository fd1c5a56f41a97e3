"""Who besides their owners may change files that a process must be able to trust, or put others in their place."""

import grp
import os
import pwd
import stat
from pathlib import Path
from typing import NamedTuple


class Writers(NamedTuple):
    """Who may write, in words, and what of ``chmod`` keeps them out."""

    who: str
    close: str


def writers(path: Path) -> Writers | None:
    """Who may write a file, or rename what lies in a folder, beside its owner; ``None`` where nobody may.

    Its owner, and who may rename a folder above it, could as well: they are trusted.
    """
    found = path.stat()
    if stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX:
        return None
    if found.st_mode & stat.S_IWOTH:
        return Writers("every user", "o-w")
    if found.st_mode & stat.S_IWGRP and (_has_list(path) or not _is_own_group(found.st_gid)):
        return Writers("its group", "g-w")
    return None


def why_not_own(path: Path) -> str:
    """Why another user of this machine may have written a file or put it there; ``""`` where none but root could.

    A link counts by where it lies and by what it names. Raises ``OSError`` where there is no file.
    """
    real = path.resolve(strict=True)
    found = real.stat()
    if not stat.S_ISREG(found.st_mode):
        return f"{path} is no file"
    if found.st_uid not in {0, os.geteuid()}:
        return f"{path} belongs to another user: chown it to the one that this runs as"
    for place in dict.fromkeys((real, path.absolute().parent, real.parent)):
        if others := writers(place):
            what = "write to it" if place == real else "put another in its place"
            return f"{path}: {others.who} may {what}: chmod {others.close} {place}"
    return ""


def _is_own_group(number: int) -> bool:
    """Whether a group is this user's alone, of the user's name, as systems make one for each user."""
    try:
        group, user = grp.getgrgid(number), pwd.getpwuid(os.geteuid())
    except KeyError:
        return False
    members = {*group.gr_mem, *(other.pw_name for other in pwd.getpwall() if other.pw_gid == number)}
    return group.gr_name == user.pw_name and members == {user.pw_name}


def _has_list(place: Path) -> bool:
    """Whether an access control list lets others in too; the group's bits are then the most that it allows."""
    return any(name.startswith("system.posix_acl") for name in os.listxattr(place))
