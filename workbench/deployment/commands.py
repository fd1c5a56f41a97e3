"""The command lines of a deployed federation: what deploy-demo starts is what docker/ and docs/deployment.md write."""

from collections.abc import Mapping
from pathlib import Path

from common.config import Scalar
from workbench.deployment.certificates import Certificates

_SUPEREXEC = ("python", "-P", "-m", "workbench.deployment.superexec")
_SUPERNODE = ("python", "-P", "-m", "workbench.deployment.supernode")


def superlink(
    port: int, certificates: Certificates, database: Path, secret: Path, host: str = "127.0.0.1"
) -> list[str]:
    """A SuperLink with TLS, registered nodes only, its state on disk, and ServerApps in processes of their own."""
    return [
        "flower-superlink",
        *("--host", host, "--port", str(port)),
        *("--ssl-ca-certfile", str(certificates.authority)),
        *("--ssl-certfile", str(certificates.certificate)),
        *("--ssl-keyfile", str(certificates.key)),
        "--enable-supernode-auth",
        *("--database", str(database)),
        *("--isolation", "process", "--superexec-auth-secret-file", str(secret)),
        "--disable-runtime-dependency-installation",
    ]


def server_superexec(address: str, authority: Path, secret: Path) -> list[str]:
    """What starts the ServerApp of every run; it outlives a crash of the SuperLink."""
    return [
        *_SUPEREXEC,
        *("--runtime-api-address", address, "--root-certificates", str(authority)),
        *("--superexec-auth-secret-file", str(secret)),
    ]


def supernode(
    address: str,
    port: int,
    authority: Path,
    key: Path,
    secret: Path,
    node_config: Mapping[str, Scalar],
    trusted: Path | None = None,
    *,
    local: Certificates,
) -> list[str]:
    """A site's SuperNode: it dials out to the SuperLink; ``port`` is for its own client processes, on loopback.

    By the certificate of ``local`` they know it: whoever else listens there could hand them any code.

    With ``trusted``, a YAML file of names and Ed25519 public keys, it runs only apps that one of these has signed.
    """
    return [
        *_SUPERNODE,
        *("--superlink", address, "--root-certificates", str(authority)),
        *("--auth-supernode-private-key", str(key)),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--ssl-ca-certfile", str(local.authority)),
        *("--ssl-certfile", str(local.certificate)),
        *("--ssl-keyfile", str(local.key)),
        *("--isolation", "process", "--superexec-auth-secret-file", str(secret)),
        *("--node-config", " ".join(f"{name}={_toml(value)}" for name, value in node_config.items())),
        *(("--trusted-entities", str(trusted)) if trusted else ()),
    ]


def client_superexec(port: int, authority: Path, secret: Path) -> list[str]:
    """What starts a ClientApp for every message of a SuperNode on the same machine."""
    return [
        *_SUPEREXEC,
        *("--runtime-api-address", f"127.0.0.1:{port}", "--root-certificates", str(authority)),
        *("--superexec-auth-secret-file", str(secret)),
    ]


def _toml(value: Scalar) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    return str(value).lower() if isinstance(value, bool) else str(value)
