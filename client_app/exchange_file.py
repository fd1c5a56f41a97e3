"""Which exchanges a site has answered, on its own disk before the answer is made: no mask is ever used twice.

Flower keeps a client's state with the reply. Were both lost after the reply has gone, the same exchange would be
answered anew under the same masks, and the difference of two answers is masked by nothing. The file lies beside the
site's ledger and is never cut, as little as that: all runs share it, and one that asks often must not make the site
forget another's. A run key is fresh, so that a file which is gone knows of no exchange that could come again after a
restart of the SuperNode, which has lost the key as well.
"""

import fcntl
import os
from pathlib import Path

from client_app.rows import is_retry_of, message_name
from common.wire.records import WireError

_SUFFIX, _UNNAMED = ".exchanges", b"-"


def claim(ledger_path: str, key: bytes, exchange: int, leg: int) -> None:
    """Write down that this leg (0: answer, 1: repair) of an exchange is answered; ``WireError`` where it was before.

    Unless it was by an attempt at this very message that a worker died over, as only its sender's process can tell.
    """
    path = Path(ledger_path + _SUFFIX)
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "rb+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        mine = key.hex().encode()
        text = file.read()
        lines = [line.split() for line in text.splitlines()]
        claimed = {(int(words[1]), int(words[2])): words[3].decode() for words in lines if _is_of(words, mine)}
        if claimed and (exchange, leg) <= max(claimed):
            if (exchange, leg) == max(claimed) and is_retry_of(claimed[exchange, leg]):
                return
            raise WireError(f"exchange {exchange} is answered already, or an older one than that was")
        apart = b"\n" if text and not text.endswith(b"\n") else b""  # what was torn has claimed nothing
        file.write(b"%s%s %d %d %s\n" % (apart, mine, exchange, leg, message_name().encode() or _UNNAMED))
        file.flush()
        os.fsync(file.fileno())


def _is_of(words: list[bytes], key: bytes) -> bool:
    return len(words) == 4 and words[0] == key
