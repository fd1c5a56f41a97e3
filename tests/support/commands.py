"""The commands of a deployment, which containers and units are held against."""

from pathlib import Path

from workbench.deployment import commands
from workbench.deployment.certificates import Certificates

NOTHING = Path("/none")
CERTIFICATES = Certificates(NOTHING, NOTHING, NOTHING)
TLS = {
    "superlink": commands.superlink(1, CERTIFICATES, NOTHING, NOTHING),
    "server-superexec": commands.server_superexec("x", NOTHING, NOTHING),
    "supernode": commands.supernode("x", 1, NOTHING, NOTHING, NOTHING, {}, local=CERTIFICATES),
    "site-superexec": commands.client_superexec(1, NOTHING, NOTHING),
}


def options(command: list[str]) -> set[str]:
    """The names of a command's options."""
    return {part.split("=")[0] for part in command if part.startswith("--")}
