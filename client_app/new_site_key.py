"""``python -m client_app.new_site_key FILE``: make a site's key for secure aggregation, and print what peers pin."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from common.secure.keys import new_private_key, public_key


def main(arguments: Sequence[str]) -> tuple[str, str]:
    """Make the file, for its owner only; the public half in hex, or ``""`` and in a line what is wrong."""
    if len(arguments) != 1 or not Path(arguments[0]).is_absolute():
        return "", "usage: python -m client_app.new_site_key FILE (an absolute name, as in site-key)"
    private = new_private_key()
    try:
        descriptor = os.open(arguments[0], os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        return "", f"{arguments[0]} could not be made: {error.strerror}"
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(private.hex() + "\n")
    return public_key(private).hex(), ""


if __name__ == "__main__":
    told, wrong = main(sys.argv[1:])
    print(told or wrong, file=sys.stdout if told else sys.stderr)
    sys.exit(bool(wrong))
