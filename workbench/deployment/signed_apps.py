"""Apps that sites have signed: a site's signature on an app bundle, and the shelf from which a SuperLink takes bundles.

``flower-supernode --trusted-entities`` runs only bundles that one of the keys in its file has signed. Flower 1.41
carries signatures only with apps that the SuperLink has fetched by name, from Flower Hub or from where the SuperLink's
variable ``FLWR_SUPERGRID_API_URL`` points; the shelf is such a place, on the server's loopback interface or, in
containers, in a network with the SuperLink alone. Sites need not trust it: a SuperNode checks the bytes that it gets
against its own file. Step by step: docs/deployment.md.
"""

import base64
import hashlib
import io
import json
import re
import time
import tomllib
import zipfile
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated, Any

import typer
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.supercore.constant import APP_ID_PATTERN, APP_VERSION_PATTERN

from workbench.cli.command_line import PlainGroup
from workbench.saying import say

_FETCH, _BUNDLES = "/hub/fetch-fab", "/bundles/"
_QUESTION_BYTES = 65_536
_NAME = r"[A-Za-z0-9_.-]+"

app = typer.Typer(help=__doc__, cls=PlainGroup, no_args_is_help=True, pretty_exceptions_enable=False)


@app.command()
def sign(
    bundle: Annotated[
        Path,
        typer.Argument(help="the .fab file, once its content has been read and approved", exists=True, dir_okay=False),
    ],
    key: Annotated[
        Path, typer.Option(help="Ed25519 private key in OpenSSH's format, no passphrase", exists=True, dir_okay=False)
    ],
    name: Annotated[str, typer.Option(help="what the site calls this key in its file of trusted entities")],
) -> None:
    """Sign a bundle as a site; the signature is written beside it, to be sent to the operator."""
    private, content = _private_key(key), bundle.read_bytes()
    try:
        of = _identity(bundle.name, content)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if not re.fullmatch(_NAME, name):
        raise typer.BadParameter(f"--name {name!r}: letters, digits, '_', '.' and '-', since it names a file")
    signed_at = int(time.time())
    record = {
        "public_key_id": name,
        "signature": _base64url(private.sign(_what_is_signed(content, signed_at))),
        "signed_at": signed_at,
    }
    path = bundle.with_name(f"{bundle.stem}.{name}.json")
    path.write_text(json.dumps(record) + "\n", encoding="utf-8")
    say(f"SHA-256 {hashlib.sha256(content).hexdigest()}\n{of}, as it says of itself, is signed: {path}")


def _private_key(path: Path) -> Ed25519PrivateKey:
    right = 'ssh-keygen -t ed25519 -N "" makes one that will do'
    try:
        found = load_ssh_private_key(path.read_bytes(), None)
    except (TypeError, ValueError, UnsupportedAlgorithm) as error:  # the first: of a key that has a passphrase
        raise typer.BadParameter(f"--key {path}: {str(error).rstrip('.')}; {right}") from error
    if not isinstance(found, Ed25519PrivateKey):
        raise typer.BadParameter(f"--key {path}: no Ed25519 key; {right}")
    return found


@app.command()
def serve(
    shelf: Annotated[Path, typer.Argument(help="folder of .fab files with the signatures beside them")],
    port: Annotated[int, typer.Option(help="port to listen on", min=1, max=65535)] = 8700,
    host: Annotated[str, typer.Option(help="address to listen on, by which the SuperLink finds it")] = "127.0.0.1",
) -> None:
    """Answer a SuperLink on this machine that asks for apps by name, until interrupted."""
    if not shelf.is_dir():
        raise typer.BadParameter(f"{shelf} is no folder")
    try:
        bundles = on_shelf(shelf)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    try:
        server = make_server(shelf, port, host)
    except OSError as error:
        raise typer.BadParameter(f"--host {host} --port {port}: {error.strerror}; give another") from error
    say(f"FLWR_SUPERGRID_API_URL=http://{host}:{server.server_port}")
    for name, bundle in bundles.items():
        signers = [record["public_key_id"] for record in signatures(bundle)]
        say(f"{name}: signed by {', '.join(signers) or 'nobody'}")
    server.serve_forever()


def make_server(shelf: Path, port: int, host: str = "127.0.0.1") -> ThreadingHTTPServer:
    """The shelf's server; files are read anew for every question."""
    return ThreadingHTTPServer((host, port), type("Shelf", (_Shelf,), {"folder": shelf, "host": host}))


def identity(bundle: Path) -> str:
    """``@publisher/name==version`` of a bundle, by which ``flwr run`` asks for it.

    Raises ``ValueError`` for what is no bundle, or names itself as Flower lets no app be named.
    """
    return _identity(bundle.name, bundle.read_bytes())


def _identity(file: str, content: bytes) -> str:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            project = tomllib.loads(archive.read("pyproject.toml").decode())
        publisher, of = project["tool"]["flwr"]["app"]["publisher"], project["project"]
        name, version = f"@{publisher}/{of['name']}", str(of["version"])
    except (zipfile.BadZipFile, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{file} is no app bundle: {error}") from error
    if not (re.fullmatch(APP_ID_PATTERN, name) and re.fullmatch(APP_VERSION_PATTERN, version)):
        raise ValueError(f"{file} is of {name!r}, version {version!r}, which are no names that Flower gives")
    return f"{name}=={version}"


def on_shelf(shelf: Path) -> dict[str, Path]:
    """The bundles of a folder by identity.

    Raises:
        ValueError: one is no bundle; or two have one identity: which of them runs must not hang on the order of their
            file names.

    """
    bundles: dict[str, Path] = {}
    for path in sorted(shelf.glob("*.fab")):
        name = identity(path)
        if name in bundles:
            raise ValueError(f"{bundles[name].name} and {path.name} are both {name}: leave one of them on the shelf")
        bundles[name] = path
    return bundles


def signatures(bundle: Path) -> list[dict[str, Any]]:
    """The signatures that lie beside a bundle, as Flower wants them; nothing is checked here but their form."""
    found = [
        json.loads(path.read_text(encoding="utf-8")) for path in sorted(bundle.parent.glob(f"{bundle.stem}.*.json"))
    ]
    return [{name: record[name] for name in ("public_key_id", "signature", "signed_at")} for record in found]


class _Shelf(BaseHTTPRequestHandler):
    """``POST /hub/fetch-fab`` as Flower's SuperLink asks it, and the bundles themselves."""

    folder: Path
    host: str

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        if self.path != _FETCH or not 0 < length <= _QUESTION_BYTES:
            self._answer(404, {"detail": "unknown"})
            return
        asked = json.loads(self.rfile.read(length))
        try:
            bundles = on_shelf(self.folder)
        except ValueError as error:
            self._answer(409, {"detail": str(error)})
            return
        bundle = bundles.get(f"{asked['app_id']}=={asked['app_version']}")
        if bundle is None:
            versions = [name.split("==")[1] for name in bundles if name.startswith(f"{asked['app_id']}==")]
            self._answer(404, {"detail": {"available_app_versions": versions}})
            return
        link = f"http://{self.host}:{self.server.server_port}{_BUNDLES}{bundle.name}"  # type: ignore[attr-defined]
        self._answer(200, {"fab_url": link, "verifications": signatures(bundle)})

    def do_GET(self) -> None:
        known = {f"{_BUNDLES}{path.name}": path for path in self.folder.glob("*.fab")}
        if self.path in known:
            self._send(200, "application/octet-stream", known[self.path].read_bytes())
        else:
            self._answer(404, {"detail": "unknown"})

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        self._send(status, "application/json", json.dumps(content).encode())

    def _send(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        with suppress(ConnectionError):  # who sends what is not read may be gone before the answer
            self.end_headers()
            self.wfile.write(content)


def _what_is_signed(bundle: bytes, signed_at: int) -> bytes:
    """Flower's canonical message: the time in seconds (8 bytes, big-endian) and the bundle's SHA-256."""
    return signed_at.to_bytes(8, "big") + hashlib.sha256(bundle).digest()


def _base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


if __name__ == "__main__":
    app()
