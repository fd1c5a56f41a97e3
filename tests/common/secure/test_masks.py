"""Masks cancel in the sum of all, hide a message from whoever lacks one seed, and come off for the missing."""

import os
from collections.abc import Iterable
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from common.secure import masks, packing
from common.secure.masks import Words, centered, masked, modulus_bits, pair_masks, seed_of, stream, total_of
from tests.support.false_alarms import statistical

Seeds = dict[frozenset[int], bytes]


def seeds_for(members: int) -> Seeds:
    return {frozenset(pair): os.urandom(32) for pair in combinations(range(members), 2)}


def of_member(seeds: Seeds, own: int, others: Iterable[int]) -> list[tuple[int, bytes]]:
    return [(other, seeds[frozenset((own, other))]) for other in others if other != own]


def messages(values: np.ndarray, seeds: Seeds, bits: int) -> list[Words]:
    members = len(values)
    return [
        masked(row, pair_masks(own, of_member(seeds, own, range(members)), row.size, bits), bits)
        for own, row in enumerate(values)
    ]


@given(
    members=st.integers(2, 7),
    size=st.integers(1, 40),
    bits=st.sampled_from([9, 18, 32, 33, 62]),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_the_sum_of_all_messages_is_the_sum_of_the_values(
    members: int, size: int, bits: int, data: st.DataObject
) -> None:
    most = (1 << (bits - 1)) // members - 1
    rows = data.draw(
        st.lists(st.lists(st.integers(-most, most), min_size=size, max_size=size), min_size=members, max_size=members)
    )
    values = np.array(rows, dtype=np.int64)
    sent = messages(values, seeds_for(members), bits)
    assert all(message.max() < 1 << bits for message in sent)
    np.testing.assert_array_equal(centered(total_of(sent, size, bits), bits), values.sum(axis=0))


def test_the_masks_of_every_pair_take_each_other_off() -> None:
    """Of more places than the sums above have members."""
    seed, bits = os.urandom(32), 20
    for low, high in combinations(range(60), 2):
        both = pair_masks(low, [(high, seed)], 3, bits) + pair_masks(high, [(low, seed)], 3, bits)
        assert not (both & np.uint64((1 << bits) - 1)).any()


def test_the_sum_is_right_for_every_set_of_missing_members_once_the_others_make_up_for_it() -> None:
    """Each survivor gives the sum of its masks with those who are missing, under masks among the survivors alone."""
    members, size, bits = 6, 9, 20
    values = np.random.default_rng(1).integers(-5000, 5000, (members, size))
    first, second = seeds_for(members), seeds_for(members)
    sent = messages(values, first, bits)
    for count in range(members - 1):
        for missing in combinations(range(members), count):
            present = [member for member in range(members) if member not in missing]
            total = total_of([sent[member] for member in present], size, bits)
            repairs = []
            for own in present:
                lost = pair_masks(own, of_member(first, own, missing), size, bits)
                again = pair_masks(own, of_member(second, own, present), size, bits)
                repairs.append((lost + again) & np.uint64((1 << bits) - 1))
            found = (total - total_of(repairs, size, bits)) & np.uint64((1 << bits) - 1)
            np.testing.assert_array_equal(centered(found, bits), values[present].sum(axis=0))
            if missing:
                assert (centered(total, bits) != values[present].sum(axis=0)).any()


@statistical(1e-6, "system")
@pytest.mark.parametrize("bits", [10, 18])
def test_one_message_is_uniform_for_whoever_lacks_one_of_its_seeds(bits: int) -> None:
    """All seeds but one are known and taken off; χ² of the upper ten bits of 2·10⁵ values, α = 10⁻⁶ a case."""
    size = 200_000
    values = np.full(size, 3, dtype=np.int64)
    seeds = seeds_for(3)
    sent = messages(np.stack([values] * 3), seeds, bits)[0]
    known = pair_masks(0, of_member(seeds, 0, [1]), size, bits)
    left = (sent - known) & np.uint64((1 << bits) - 1)
    counts = np.bincount((left >> np.uint64(bits - 10)).astype(np.int64), minlength=1024)
    assert chisquare(counts).pvalue > 1e-6


def test_two_contexts_never_share_a_seed() -> None:
    secret = os.urandom(32)
    contexts = [os.urandom(count) for count in range(64)]
    assert len({seed_of(secret, context) for context in contexts}) == 64


def test_a_stream_is_chacha20_of_the_seed() -> None:
    """Block 0 of RFC 8439's all-zero key and nonce, in appendix A.1, test vector 1."""
    expected = bytes.fromhex("76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7")
    assert stream(bytes(32), 8, 32).astype("<u4").tobytes() == expected


@pytest.mark.parametrize(
    ("largest", "std", "bits"), [(0, 0, 1), (1, 0, 2), (51_200, 6451, 18), (0, 10, 8), (10_240, 6_800, 18)]
)
def test_the_modulus_is_the_smallest_that_holds_the_sum(largest: float, std: float, bits: int) -> None:
    assert modulus_bits(largest, std) == bits
    assert largest + 12 * std < 1 << (bits - 1) or bits == 1
    with pytest.raises(ValueError, match="bits"):
        modulus_bits(2.0**61, 2.0**58)


@given(size=st.integers(0, 70), bits=st.integers(1, masks.MOST_BITS), seed=st.integers(0, 2**32))
@settings(max_examples=80, deadline=None)
def test_packed_values_come_back(size: int, bits: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 1 << bits, size, dtype=np.uint64)
    data = packing.pack(values, bits)
    assert len(data) == packing.packed_bytes(size, bits)
    np.testing.assert_array_equal(packing.unpack(data, size, bits), values)


def test_long_vectors_are_packed_in_pieces() -> None:
    values = np.random.default_rng(0).integers(0, 1 << 19, 70_001, dtype=np.uint64)
    np.testing.assert_array_equal(packing.unpack(packing.pack(values, 19), 70_001, 19), values)


def test_what_was_not_packed_so_is_refused() -> None:
    data = packing.pack(np.arange(5, dtype=np.uint64), 3)
    for wrong in (data + b"\x00", data[:-1], data[:-1] + b"\xff"):
        with pytest.raises(ValueError, match=r"b(yte|it)s"):
            packing.unpack(wrong, 5, 3)
    with pytest.raises(ValueError, match="bits"):
        packing.unpack(data, 5, 0)
