"""Everybody's public keys of one run, in one order: what every member is shown, and what all secrets are bound to."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

from common.secure.keys import KEY_BYTES, SITE_BYTES, KeyFault

ENTRY_BYTES = KEY_BYTES + SITE_BYTES
MOST_MEMBERS = 1000
"""Everybody is paired with everybody, so each member holds as many secrets, and a message takes as many streams."""


@dataclass(frozen=True)
class Directory:
    """One (public run key, site name) for each member; a member is known by its place here.

    ``KeyFault`` on construction for fewer than two members, too many, or two with the same run key.
    """

    members: tuple[tuple[bytes, bytes], ...]

    def __post_init__(self) -> None:
        if not 2 <= len(self.members) <= MOST_MEMBERS:
            raise KeyFault(f"a directory of {len(self.members)} members, expected 2 to {MOST_MEMBERS}")
        if any((len(key), len(site)) != (KEY_BYTES, SITE_BYTES) for key, site in self.members):
            raise KeyFault(f"a member is {KEY_BYTES} bytes of key and {SITE_BYTES} of its site's name")
        if len({key for key, _ in self.members}) != len(self.members):
            raise KeyFault("two members of the directory have the same key")

    @classmethod
    def from_bytes(cls, data: bytes) -> "Directory":
        """The inverse of ``to_bytes``; ``KeyFault`` for bytes that are no directory."""
        if len(data) % ENTRY_BYTES or len(data) > ENTRY_BYTES * MOST_MEMBERS:
            raise KeyFault(f"a directory of {len(data)} bytes, expected {ENTRY_BYTES} a member")
        entries = (data[start : start + ENTRY_BYTES] for start in range(0, len(data), ENTRY_BYTES))
        return cls(tuple((entry[:KEY_BYTES], entry[KEY_BYTES:]) for entry in entries))

    def to_bytes(self) -> bytes:
        """37 bytes a member."""
        return b"".join(key + site for key, site in self.members)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of it: binds every pair secret, and draws the graph."""
        return hashlib.sha256(b"dr-encoder directory" + self.to_bytes()).digest()

    def place_of(self, key: bytes) -> int:
        """The place of the member with this run key; ``KeyFault`` where it is not in."""
        for place, (other, _) in enumerate(self.members):
            if other == key:
                return place
        raise KeyFault("this member's own key is not in the directory")


def to_bitmap(chosen: set[int], members: int) -> bytes:
    """A set of members as a bit each."""
    return sum(1 << place for place in chosen).to_bytes((members + 7) // 8, "little")


def from_bitmap(data: bytes, members: int) -> set[int]:
    """The inverse of ``to_bitmap``; ``KeyFault`` for another length or members that there are not."""
    number = int.from_bytes(data, "little")
    if len(data) != (members + 7) // 8 or number >> members:
        raise KeyFault(f"a set of members in {len(data)} bytes does not fit {members} members")
    return {place for place in range(members) if number >> place & 1}
