"""Long-lived keys of sites: a site's own (``site-key``), and those of the others that it has pinned (``peers``).

A server can put itself between two clients that know each other by their run keys alone. It cannot where each has the
other's public key from the other site itself, out of a file.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path

from client_app.node_config import NodeConfig, PolicyRefusal, absolute_path, brings_own_data
from common.own_files import why_not_own
from common.secure.directory import Directory
from common.secure.keys import KEY_BYTES, NO_SITE, KeyFault, agree, pair_secret, public_key, site_name

_log = logging.getLogger("flwr")


@dataclass(frozen=True)
class SiteKeys:
    """A site's private key, and its peers' public ones by name; nothing of both at a simulated client.

    Attributes:
        private: 32 bytes, ``b""`` where there is none.
        peers: public key of each pinned peer by ``keys.site_name``.

    """

    private: bytes = field(repr=False)
    peers: dict[bytes, bytes]

    @classmethod
    def from_node_config(cls, node: NodeConfig) -> "SiteKeys":
        """Read both files; ``PolicyRefusal`` where a site with its own data has none, or one is not as it must be.

        What is wrong with a file, and where it lies, is for the site's own log.
        """
        key, peers = absolute_path(node, "site-key"), absolute_path(node, "peers")
        if not key and not peers:
            if brings_own_data(node):
                raise PolicyRefusal(
                    "this site refuses: secure aggregation needs site-key and peers in its node config, or the server "
                    "could stand between it and the others"
                )
            return cls(b"", {})
        if not (key and peers):
            raise PolicyRefusal("node config site-key, peers: set both, or none of them; refusing until then")
        try:
            return cls(read_private(Path(key)), read_peers(Path(peers)))
        except (OSError, ValueError) as error:
            _log.error("the keys of this site cannot be used: %s", error)
        raise PolicyRefusal("this site refuses: its site-key or its peers cannot be read; why is in its own log")

    @property
    def name(self) -> bytes:
        """Under which name the others have pinned this site."""
        return site_name(public_key(self.private)) if self.private else NO_SITE

    def check(self, directory: Directory, place: int) -> None:
        """Refuse a directory with a member that is not pinned, or twice in it; anything goes without pinned keys."""
        if not self.private:
            return
        names = [site for _, site in directory.members]
        if names[place] != self.name or len(set(names)) != len(names):
            raise PolicyRefusal("this site refuses: the directory has a site twice, or another name for this one")
        strangers = sum(name not in self.peers for other, name in enumerate(names) if other != place)
        if strangers:
            raise PolicyRefusal(f"this site refuses: {strangers} of {len(names)} members are none of its peers")

    def secret(self, private: bytes, directory: Directory, ends: tuple[int, int], run: int) -> bytes:
        """The secret of the pair at ``ends``, own place first; ``KeyFault`` for a key that none is agreed on with."""
        key, name = directory.members[ends[1]]
        agreements = agree(private, key)
        if self.private:
            agreements += agree(self.private, self.peers[name])
        return pair_secret(agreements, directory.digest, run, ends)


def read_private(path: Path) -> bytes:
    """A private key as ``new_site_key`` writes it; ``ValueError`` for others, or where others may read it."""
    if path.stat().st_mode & 0o077:
        raise ValueError(f"{path} is open to others: chmod 600")
    if why := why_not_own(path):
        raise ValueError(why)
    return _key(path.read_text(encoding="ascii").strip(), str(path))


def read_peers(path: Path) -> dict[bytes, bytes]:
    """Pinned public keys by name: a line each, the key in hex and after it what people call the site.

    ``ValueError`` for anything else, or where another user may have written one in.
    """
    if why := why_not_own(path):
        raise ValueError(why)
    lines = [line.split("#", 1)[0].split() for line in path.read_text(encoding="utf-8").splitlines()]
    keys = [_key(words[0], str(path)) for words in lines if words]
    found = {site_name(key): key for key in keys}
    if len(found) != len(keys) or not keys:
        raise ValueError(f"{path}: {len(keys)} keys, {len(found)} of them different; expected one line for each peer")
    for key in keys:
        try:
            agree(bytes(KEY_BYTES - 1) + b"\x40", key)
        except KeyFault:
            raise ValueError(f"{path}: {key.hex()} is no public key") from None
    return found


def _key(text: str, where: str) -> bytes:
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise ValueError(f"{where}: expected {2 * KEY_BYTES} hex digits for a key")
    return key
