"""Keys of secure aggregation: X25519 pairs, and from them one secret for each pair of clients and run.

A client makes a key pair for one run. Where sites pin each other's long-lived keys, both agreements are mixed, so that
a server that puts a run key of its own in the place of somebody's learns no pair secret: for that it would need a
pinned private key, too. A server that only listens learns none even if it gets hold of a pinned key later.
"""

import hashlib

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES, SITE_BYTES = 32, 5
NO_SITE = bytes(SITE_BYTES)
"""In place of the name of a pinned key, where none is used: simulated clients, which are no sites."""
_PURPOSE = b"dr-encoder secure aggregation, pair secret, version 2"


class KeyFault(ValueError):
    """What was sent as a public key is none."""


def new_private_key() -> bytes:
    """32 bytes of a fresh X25519 private key, from the operating system's randomness."""
    return X25519PrivateKey.generate().private_bytes_raw()


def public_key(private: bytes) -> bytes:
    """The 32 bytes to publish of a private key."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def site_name(public: bytes) -> bytes:
    """Five bytes by which a pinned key is referred to; whoever pins keys must refuse two of one name.

    Secrets hang on the key itself, so a name that is made to be another's can do no more than be refused.
    """
    return hashlib.sha256(b"dr-encoder site key" + public).digest()[:SITE_BYTES]


def agree(private: bytes, public: bytes) -> bytes:
    """The X25519 secret of two key pairs; ``KeyFault`` for a point of low order, which would fix it, or no key."""
    try:
        return X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise KeyFault("a public key is no point that a secret can be agreed on with") from None


def pair_secret(agreements: bytes, directory: bytes, run: int, ends: tuple[int, int]) -> bytes:
    """The secret of two clients in one run: HKDF-SHA-256 of their agreements, 32 bytes.

    ``agreements``: that of the run keys, and behind it that of the pinned keys where there are any. ``directory``: the
    digest of everybody's public keys. Two clients that were shown different ones agree on nothing, so that their masks
    stay on. ``ends``: both places there, in either order. One point has several encodings, so two members may have one
    agreement with a third; were it one secret too, the masks of both pairs could take each other off.
    """
    info = _PURPOSE + run.to_bytes(16, "big", signed=True) + b"".join(end.to_bytes(2, "big") for end in sorted(ends))
    return HKDF(hashes.SHA256(), KEY_BYTES, salt=directory, info=info).derive(agreements)
