"""Whether a service answers: ``python -m workbench.deployment.health URL [CA]`` ends with 0 or 1.

For the health checks of containers. No word of such a command has a blank in it, since Podman 4 splits those that have.
``http://`` and ``https://`` must answer with success, the latter under the authority of the file ``CA``; ``tcp://``
must only let itself be connected to.
"""

import socket
import ssl
import sys
from urllib.parse import urlsplit

import httpx

_SECONDS = 5.0


def answers(url: str, authority: str = "") -> str:
    """``""``, or why the service at ``url`` is not healthy; ``authority``: a file of certificates to trust."""
    try:
        if urlsplit(url).scheme == "tcp":
            where = urlsplit(url)
            socket.create_connection((where.hostname or "", where.port or 0), _SECONDS).close()
            return ""
        trust = ssl.create_default_context(cafile=authority or None)
        httpx.get(url, verify=trust, timeout=_SECONDS, trust_env=False).raise_for_status()
    except (OSError, ValueError, httpx.HTTPError, httpx.InvalidURL) as error:
        return f"{url}: {type(error).__name__}: {error}"
    return ""


def main() -> None:
    """Print why it is not healthy, if it is not."""
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: python -m workbench.deployment.health URL [CA]")
    sys.exit(answers(*sys.argv[1:]) or 0)


if __name__ == "__main__":
    main()
