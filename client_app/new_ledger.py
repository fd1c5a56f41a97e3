"""``python -m client_app.new_ledger FILE``: make the ledger of a site that has never answered, once."""

import sys
from collections.abc import Sequence
from pathlib import Path

from client_app.site_ledger import create_ledger


def main(arguments: Sequence[str]) -> str:
    """Make the file; what is wrong, in a line, or ``""``."""
    if len(arguments) != 1 or not Path(arguments[0]).is_absolute():
        return "usage: python -m client_app.new_ledger FILE (an absolute name, as in ledger-path)"
    try:
        create_ledger(Path(arguments[0]))
    except FileExistsError:
        return f"{arguments[0]} is there already; it is left as it is, since it says what was spent"
    except OSError as error:
        return f"{arguments[0]} could not be made: {error.strerror}"
    return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]) or None)
