"""Pair secrets: both ends agree, nobody else does, and what they are bound to is bound."""

import os

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from common.secure.directory import Directory, from_bitmap, to_bitmap
from common.secure.keys import (
    KEY_BYTES,
    NO_SITE,
    SITE_BYTES,
    KeyFault,
    agree,
    new_private_key,
    pair_secret,
    public_key,
    site_name,
)
from common.secure.masks import seed_of

LOW_ORDER = [bytes(32), (1).to_bytes(32, "little")]
DIRECTORY = bytes(range(32))


def two_secrets(directories: tuple[bytes, bytes], runs: tuple[int, int]) -> tuple[bytes, bytes]:
    one, other = new_private_key(), new_private_key()
    return (
        pair_secret(agree(one, public_key(other)), directories[0], runs[0], (0, 1)),
        pair_secret(agree(other, public_key(one)), directories[1], runs[1], (1, 0)),
    )


def test_both_ends_of_a_pair_have_one_secret() -> None:
    first, second = two_secrets((DIRECTORY, DIRECTORY), (7, 7))
    assert first == second
    assert len(first) == KEY_BYTES


@pytest.mark.parametrize("runs", [(7, 8), (7, -7)])
def test_two_runs_share_no_secret(runs: tuple[int, int]) -> None:
    first, second = two_secrets((DIRECTORY, DIRECTORY), runs)
    assert first != second


def test_clients_that_were_shown_different_directories_agree_on_nothing() -> None:
    first, second = two_secrets((DIRECTORY, bytes(32)), (7, 7))
    assert first != second


def test_a_pinned_agreement_changes_the_secret() -> None:
    """So a server that replaces a run key, and then knows its agreement, still lacks the other one."""
    run, pinned = os.urandom(32), os.urandom(32)
    ends = (0, 1)
    assert pair_secret(run + pinned, DIRECTORY, 1, ends) != pair_secret(run + os.urandom(32), DIRECTORY, 1, ends)


def test_the_secret_is_that_of_the_library_primitives() -> None:
    one, other = X25519PrivateKey.generate(), X25519PrivateKey.generate()
    shared = one.exchange(X25519PublicKey.from_public_bytes(other.public_key().public_bytes_raw()))
    info = (
        b"dr-encoder secure aggregation, pair secret, version 2"
        + (5).to_bytes(16, "big", signed=True)
        + bytes([0, 3, 1, 2])
    )
    expected = HKDF(hashes.SHA256(), 32, salt=DIRECTORY, info=info).derive(shared)
    agreed = agree(other.private_bytes_raw(), one.public_key().public_bytes_raw())
    assert pair_secret(agreed, DIRECTORY, 5, (258, 3)) == expected
    assert seed_of(expected, b"context") == HKDFExpand(hashes.SHA256(), 32, b"context").derive(expected)


def test_no_two_pairs_share_a_secret_whatever_they_agree_on() -> None:
    agreed, places = os.urandom(32), range(12)
    pairs = [(low, high) for high in places for low in range(high)]
    assert len({pair_secret(agreed, DIRECTORY, 1, pair) for pair in pairs}) == len(pairs)


@pytest.mark.parametrize("key", [*LOW_ORDER, b"", bytes(31), bytes(33)])
def test_a_key_that_fixes_the_secret_or_is_none_is_refused(key: bytes) -> None:
    with pytest.raises(KeyFault):
        agree(new_private_key(), key)


def test_site_names_differ() -> None:
    names = {site_name(public_key(new_private_key())) for _ in range(50)}
    assert len(names) == 50
    assert {len(name) for name in names} == {SITE_BYTES}


def entries(count: int) -> tuple[tuple[bytes, bytes], ...]:
    return tuple((os.urandom(32), os.urandom(SITE_BYTES)) for _ in range(count))


def test_a_directory_takes_37_bytes_a_member_and_comes_back() -> None:
    directory = Directory(entries(5))
    assert len(directory.to_bytes()) == 5 * 37
    assert Directory.from_bytes(directory.to_bytes()) == directory
    assert directory.place_of(directory.members[3][0]) == 3


def test_every_byte_of_a_directory_is_in_its_digest() -> None:
    data = bytearray(Directory(entries(3)).to_bytes())
    digests = set()
    for place in range(len(data)):
        data[place] ^= 1
        digests.add(Directory.from_bytes(bytes(data)).digest)
        data[place] ^= 1
    assert len(digests) == len(data)


def test_what_is_no_directory_is_refused() -> None:
    good = entries(3)
    for members in (good[:1], (), (good[0], good[0]), ((bytes(31), NO_SITE), good[1]), ((bytes(32), b""), good[1])):
        with pytest.raises(KeyFault):
            Directory(members)
    with pytest.raises(KeyFault):
        Directory.from_bytes(bytes(38))
    with pytest.raises(KeyFault):
        Directory(good).place_of(bytes(32))


@pytest.mark.parametrize("members", [1, 7, 8, 9, 100])
def test_sets_of_members_come_back(members: int) -> None:
    for chosen in (set(), {0}, set(range(members)), set(range(0, members, 2))):
        assert from_bitmap(to_bitmap(chosen, members), members) == chosen


def test_sets_of_another_length_or_beyond_the_members_are_refused() -> None:
    for data in (b"", b"\x00\x00", b"\x80"):
        with pytest.raises(KeyFault):
            from_bitmap(data, 7)
