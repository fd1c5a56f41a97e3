"""Errors of a full disk that say where: neither the system nor safetensors names the file that was written."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name the file, or the folder that all is written to, in an error of writing that names none."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL and error.filename is None:
            error.filename = str(path)
        raise
    except SafetensorError as error:
        found = re.search(r"I/O error.*\(os error (\d+)\)", str(error))
        if found is None:
            raise
        number = int(found[1])
        raise OSError(number, os.strerror(number), str(path)) from error
