"""Where torch keeps what it compiles: with this user alone, not under a name that anybody can foretell.

By itself it takes a folder among the temporary files that is called after the user, and reads it as soon as
bitsandbytes is imported, which peft does: a file there is evaluated as Python. Another user of the machine who had made
that folder first ran code as the user of a site, beside its rows. The package ``common`` imports this before anything
imports peft.
"""

import os
import tempfile

from common.private_files import own_folder, private_folder


def compiled_folder() -> str:
    """A folder that nobody else can have made or can write to; torch makes it when it needs it."""
    base = own_folder()
    try:
        private_folder(base)
    except OSError:  # somebody else's, or no place for one: one of a random name
        return tempfile.mkdtemp(prefix="dr-encoder-")
    return str(base / "torch")


os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", compiled_folder())
