"""What a site signs and a shelf serves, judged by Flower's own client and its SuperNode's own verification."""

import hashlib
import json
import shutil
import socket
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from flwr.supercore.fab import Fab
from flwr.supercore.utils import request_download_link
from flwr.superlink.servicer.control.control_handlers import _format_verification
from flwr.supernode.start_client_internal import _verify_fab
from typer.testing import CliRunner

from workbench.deployment import signed_apps

NAME, VERSION = "@clinic/app", "1.2.3"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "shelf" / "clinic.app.1-2-3.fab"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "pyproject.toml", '[project]\nname = "app"\nversion = "1.2.3"\n[tool.flwr.app]\npublisher = "clinic"\n'
        )
    return path


@pytest.fixture
def address(bundle: Path) -> Iterator[str]:
    server = signed_apps.make_server(bundle.parent, 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def make_key(path: Path) -> tuple[Path, str]:
    """A private key's file, and the public half as it is written into a file of trusted entities."""
    key = Ed25519PrivateKey.generate()
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    return path, key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def sign(bundle: Path, key: Path, name: str) -> None:
    done = CliRunner().invoke(signed_apps.app, ["sign", str(bundle), "--key", str(key), "--name", name])
    assert done.exit_code == 0, done.output
    assert hashlib.sha256(bundle.read_bytes()).hexdigest() in done.output.replace("\n", "")


def fetched(address: str) -> Fab:
    """As a SuperLink takes an app by name, and hands it on to SuperNodes."""
    link, verifications, _ = request_download_link(NAME, VERSION, f"{address}/hub/fetch-fab", "fab_url")
    assert verifications is not None
    content = requests.get(link, timeout=10).content
    return Fab(hashlib.sha256(content).hexdigest(), content, _format_verification(verifications))


def test_a_supernode_accepts_what_its_own_site_has_signed_and_nothing_else(
    tmp_path: Path, bundle: Path, address: str
) -> None:
    ours, public = make_key(tmp_path / "ours")
    theirs, other = make_key(tmp_path / "theirs")
    assert not _verify_fab(fetched(address), {"clinic": public}), "unsigned"
    sign(bundle, theirs, "clinic")
    assert not _verify_fab(fetched(address), {"clinic": public}), "the right name, another key"
    sign(bundle, ours, "clinic")
    sign(bundle, theirs, "hospital")
    fab = fetched(address)
    assert fab.content == bundle.read_bytes()
    assert _verify_fab(fab, {"clinic": public})
    assert _verify_fab(fab, {"hospital": other}), "each site by its own signature"
    assert not _verify_fab(fab, {"third": public})
    assert not _verify_fab(Fab("", fab.content + b" ", fab.verifications), {"clinic": public}), "one more byte"
    record = json.loads(fab.verifications["clinic"])
    later = {"clinic": json.dumps(record | {"signed_at": record["signed_at"] + 1})}
    assert not _verify_fab(Fab("", fab.content, later), {"clinic": public}), "the time is signed too"


def test_a_version_that_is_not_on_the_shelf_is_named_with_those_that_are(address: str) -> None:
    with pytest.raises(ValueError, match=r"9\.9\.9 not found.*1\.2\.3"):
        request_download_link(NAME, "9.9.9", f"{address}/hub/fetch-fab", "fab_url")


def test_two_bundles_of_one_name_and_version_are_refused_by_their_files(address: str, bundle: Path) -> None:
    """Else old code whose signature still holds could run in place of the new, by the order of a listing."""
    shutil.copy(bundle, bundle.with_name("another.fab"))
    done = CliRunner().invoke(signed_apps.app, ["serve", str(bundle.parent), "--port", address.rsplit(":", 1)[1]])
    assert done.exit_code == 2
    said = " ".join(done.output.replace("│", " ").split())
    assert "another.fab and clinic.app.1-2-3.fab are both @clinic/app==1.2.3" in said
    with pytest.raises(ValueError, match=r"409.*another\.fab and clinic\.app\.1-2-3\.fab"):
        request_download_link(NAME, VERSION, f"{address}/hub/fetch-fab", "fab_url")
    bundle.unlink()
    assert fetched(address).content == bundle.with_name("another.fab").read_bytes()


@pytest.mark.parametrize("length", ["-1", "0", "65537"])
def test_a_question_of_no_proper_length_is_refused_without_being_read(address: str, length: str) -> None:
    """Of a negative length it would be read until the asker hangs up."""
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as asker:
        asker.sendall(f"POST /hub/fetch-fab HTTP/1.1\r\nHost: shelf\r\nContent-Length: {length}\r\n\r\n".encode())
        assert b" 404 " in asker.recv(100).splitlines()[0]


@pytest.mark.parametrize("path", ["/", "/bundles/../ours", "/bundles/clinic.app.1-2-3.site.json", "/hub/fetch-fab"])
def test_the_shelf_gives_bundles_and_nothing_else(address: str, bundle: Path, path: str) -> None:
    (bundle.parent.parent / "ours").write_text("a key")
    (bundle.parent / "clinic.app.1-2-3.site.json").write_text("{}")
    prepared = requests.Request("GET", address).prepare()
    prepared.url = address + path
    assert requests.Session().send(prepared, timeout=10).status_code == 404


def test_a_key_of_another_kind_is_refused(tmp_path: Path, bundle: Path) -> None:
    path = tmp_path / "node"
    key = ec.generate_private_key(ec.SECP384R1())
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    done = CliRunner().invoke(signed_apps.app, ["sign", str(bundle), "--key", str(path), "--name", "x"])
    assert done.exit_code == 2
    assert "Ed25519" in done.output
    assert not list(bundle.parent.glob("*.json"))


@pytest.mark.parametrize(
    ("publisher", "version"),
    [
        ("clinic", "0.1.0, SHA-256 " + "a" * 64 + "\\u001b[8m"),
        ("clinic", "1.2"),
        ("\\u001b]0;title\\u0007clinic", "1.2.3"),
        ("clinic\\n" + "a" * 64, "1.2.3"),
    ],
)
def test_a_bundle_does_not_write_what_its_signer_reads(tmp_path: Path, publisher: str, version: str) -> None:
    """A version of a false digest and a code that hides what follows: the site read the false one alone."""
    named = f'[project]\nname = "app"\nversion = "{version}"\n[tool.flwr.app]\npublisher = "{publisher}"\n'
    with zipfile.ZipFile(tmp_path / "app.fab", "w") as archive:
        archive.writestr("pyproject.toml", named)
    key, _ = make_key(tmp_path / "key")
    arguments = ["sign", str(tmp_path / "app.fab"), "--key", str(key), "--name", "site"]
    done = CliRunner().invoke(signed_apps.app, arguments)
    assert done.exit_code == 2
    assert "no names that Flower gives" in " ".join(done.output.replace("\u2502", " ").split())
    assert not {"\x1b", "\x07"} & set(done.output)
    assert not (tmp_path / "app.site.json").exists()
    with pytest.raises(ValueError, match="no names that Flower gives"):
        signed_apps.on_shelf(tmp_path)


def test_the_digest_that_is_signed_stands_on_a_line_of_its_own(tmp_path: Path, bundle: Path) -> None:
    key, _ = make_key(tmp_path / "key")
    done = CliRunner().invoke(signed_apps.app, ["sign", str(bundle), "--key", str(key), "--name", "site"])
    first, second, *_ = done.output.splitlines()
    assert first == f"SHA-256 {hashlib.sha256(bundle.read_bytes()).hexdigest()}"
    assert second.startswith("@clinic/app==1.2.3, as it says of itself, is signed: ")


@pytest.mark.parametrize(
    ("content", "key_text", "name", "told"),
    [
        (b"no zip", None, "site", "is no app bundle"),
        (None, "no key", "site", "Invalid value"),
        (None, None, "../site", "since it names a file"),
    ],
)
def test_what_cannot_be_signed_is_told_in_a_line(
    tmp_path: Path, bundle: Path, content: bytes | None, key_text: str | None, name: str, told: str
) -> None:
    if content:
        bundle.write_bytes(content)
    key, _ = make_key(tmp_path / "key")
    if key_text:
        key.write_text(key_text)
    done = CliRunner().invoke(signed_apps.app, ["sign", str(bundle), "--key", str(key), "--name", name])
    assert (done.exit_code, type(done.exception)) == (2, SystemExit)
    assert told in " ".join(done.output.replace("\u2502", " ").split())
    assert [path.name for path in bundle.parent.iterdir()] == [bundle.name]


@pytest.mark.parametrize("kind", ["text", "public", "ec"])
def test_a_key_that_will_not_do_is_named_with_what_makes_a_right_one(tmp_path: Path, bundle: Path, kind: str) -> None:
    key, public = make_key(tmp_path / "key")
    if kind == "text":
        key.write_text("no key")
    elif kind == "public":
        key.write_text(public)
    else:
        made = ec.generate_private_key(ec.SECP256R1())
        key.write_bytes(made.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    done = CliRunner().invoke(signed_apps.app, ["sign", str(bundle), "--key", str(key), "--name", "site"])
    assert done.exit_code == 2
    said = "".join(done.output.replace("│", "").split())
    assert f"--key{key}:" in said
    assert "ssh-keygen-ted25519-N" in said
    assert not list(bundle.parent.glob("*.json"))


def test_a_port_that_is_taken_is_named(bundle: Path, address: str) -> None:
    port = address.rsplit(":", 1)[1]
    done = CliRunner().invoke(signed_apps.app, ["serve", str(bundle.parent), "--port", port])
    assert done.exit_code == 2
    assert f"--port {port}: Address already in use" in " ".join(done.output.replace("│", " ").split())
