"""A certificate authority for a demonstration or a test, a server certificate under it, and keys of SuperNodes.

A real federation takes its server certificate from its own authority; see docs/deployment.md.
"""

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.private_files import private_files

_DAYS = 30


@dataclass(frozen=True)
class Certificates:
    """Files of a TLS server: the authority's certificate (for everybody), the server's own, and its private key."""

    authority: Path
    certificate: Path
    key: Path


def make_certificates(
    folder: Path, hosts: tuple[str, ...] = ("localhost", "127.0.0.1"), days: int = _DAYS
) -> Certificates:
    """Make an authority and a server certificate for ``hosts`` (names or IP addresses), valid for some days.

    The authority's private key is never written: nobody can sign with it afterwards.
    """
    _own_folder(folder)
    authority_key, server_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = _authority(authority_key, days)
    server = _server(hosts, server_key.public_key(), authority, authority_key, days)
    made = Certificates(folder / "ca.crt", folder / "server.pem", folder / "server.key")
    _write_public(made.authority, authority.public_bytes(Encoding.PEM))
    _write_public(made.certificate, server.public_bytes(Encoding.PEM))
    _write_secret(made.key, server_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return made


def make_node_key(path: Path) -> Path:
    """A SuperNode's private key at ``path`` (0600) and its public key, to be registered, at the returned path."""
    key = ec.generate_private_key(ec.SECP384R1())
    _write_secret(path, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    public = path.with_suffix(".pub")
    _write_public(public, key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH) + b"\n")
    return public


def make_secret(path: Path, secret: bytes) -> Path:
    """Write a shared secret that only this user may read."""
    _write_secret(path, secret)
    return path


def _authority(key: ec.EllipticCurvePrivateKey, days: int) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "dr-encoder demonstration authority")])
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    return (
        _builder(name, name, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _server(
    hosts: tuple[str, ...],
    public: ec.EllipticCurvePublicKey,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    days: int,
) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0])])
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    return (
        _builder(name, authority.subject, public, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(issuer, critical=False)
        .sign(authority_key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _own_folder(folder: Path) -> None:
    with private_files():
        folder.mkdir(parents=True, exist_ok=True)


def _write_public(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o644)  # for everybody, whatever this user's umask is


def _write_secret(path: Path, content: bytes) -> None:
    _own_folder(path.parent)
    path.touch(mode=0o600, exist_ok=False)  # a key that is there already is never overwritten
    path.write_bytes(content)
