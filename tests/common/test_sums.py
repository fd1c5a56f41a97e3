"""Released sums: how they are rounded, and how they travel."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.trajectory import RoundSum
from common.wire.sums import Entry, joined, pack_sum, split_sums, typical_size, unpack_sum

SIGMA = 5_910.0  # the demo's noise on a sum, in grid steps


def drawn(size: int, std: float, seed: int = 0) -> np.ndarray:
    return np.rint(np.random.default_rng(seed).normal(0, std, size)).astype(np.int64)


@settings(max_examples=200, deadline=None)
@given(
    values=st.lists(st.integers(-(2**38), 2**38), min_size=1, max_size=40),
    number=st.integers(1, 2**31 - 1),
    step=st.integers(1, 2**40),
)
def test_any_integers_arrive_as_they_were_sent(values: list[int], number: int, step: int) -> None:
    similar = [value // max(1, max(map(abs, values)) // 1000) for value in values]  # ones for each: not by the billion
    sent = RoundSum(number, step, np.array(similar))
    (entry,) = split_sums(pack_sum(sent).data)
    found = unpack_sum(entry, len(values))
    assert (found.round, found.step, found.values.tolist()) == (number, step, similar)


def test_sums_without_noise_arrive_to_the_bit() -> None:
    values = np.random.default_rng(1).normal(size=64).astype(np.float32)
    sent = RoundSum.of(3, values)
    found = unpack_sum(pack_sum(sent), 64)
    assert (found.round, found.step) == (3, 0)
    assert found.values.tobytes() == values.tobytes()


def test_entries_are_split_in_the_order_of_their_rounds() -> None:
    entries = [pack_sum(RoundSum(number, 2, drawn(64, 3.0, number))) for number in (1, 2, 5, 200)]
    assert split_sums(joined(entries)) == entries
    for wrong in (entries[::-1], [entries[0], entries[0]]):
        with pytest.raises(ValueError, match="out of order"):
            split_sums(joined(wrong))


@pytest.mark.parametrize("place", range(0, 90, 7))
def test_a_cut_sum_is_refused_and_a_corrupted_one_is_refused_or_another(place: int) -> None:
    entry = pack_sum(RoundSum.of(1, drawn(256, SIGMA)))
    with pytest.raises(ValueError, match="sum"):
        split_sums(entry.data[:place] or b"\x05")
    spoiled = bytearray(entry.data)
    spoiled[place] ^= 0x10
    try:
        found = unpack_sum(split_sums(bytes(spoiled))[0], 256)
    except ValueError:
        return
    honest = unpack_sum(entry, 256)
    assert (found.round, found.step, found.values.tolist()) != (honest.round, honest.step, honest.values.tolist())


def test_values_of_another_number_are_refused() -> None:
    entry = pack_sum(RoundSum(1, 3, drawn(64, 3.0)))
    for size in (8, 60, 66, 900):
        with pytest.raises(ValueError, match=f"other than {size}|{size} values"):
            unpack_sum(entry, size)
    with pytest.raises(ValueError, match="without its values"):
        unpack_sum(Entry(1, b"\x02\x01\x03"), 64)


@pytest.mark.parametrize("signal", [0.0, 0.5, 1.0, 1.7, 9.0])
def test_rounding_adds_two_per_cent_of_energy_and_no_bias_and_leaves_three_bits_a_value(signal: float) -> None:
    """Whatever the signal beside the noise; a value of the first grid takes 14 bits and more."""
    total = drawn(65_536, SIGMA) + drawn(65_536, signal * SIGMA, 1)
    summed = RoundSum.of(1, total)
    error = summed.values * summed.step - total
    assert error.std() / total.std() == pytest.approx(math.sqrt(1 / 48), rel=0.02)
    assert abs(error.mean()) < 5 * error.std() / 256
    assert abs(np.corrcoef(error, total)[0, 1]) < 0.02
    assert 8 * len(pack_sum(summed).data) / len(total) < 3.3
    np.testing.assert_array_equal(unpack_sum(pack_sum(summed), len(total)).values, summed.values)


@pytest.mark.parametrize("noisy", [True, False])
@pytest.mark.parametrize("size", [64, 256, 20_000])
def test_the_size_that_is_told_before_a_run_is_that_of_a_sum(size: int, noisy: bool) -> None:
    """To 2 % for many values, and for a mean over rounds."""
    totals = [drawn(size, SIGMA, seed) for seed in range(40)]
    sums = [RoundSum.of(9, total if noisy else total.astype(np.float32)) for total in totals]
    sizes = [len(pack_sum(summed).data) for summed in sums]
    assert np.mean(sizes) == pytest.approx(typical_size(size, noisy=noisy), rel=0.02)


def test_small_and_empty_sums_stay_as_they_are() -> None:
    for total in (np.zeros(8, dtype=np.int64), np.array([1, -1, 0, 2])):
        summed = RoundSum.of(1, total)
        assert summed.step == 1
        np.testing.assert_array_equal(summed.values, total)


@pytest.mark.parametrize("size", [1, 3, 256, 10_000])
def test_honest_sums_are_short_and_longer_ones_are_refused_before_they_are_read(size: int) -> None:
    """A byte of ones and zeros takes 72 while it is read: a server could exhaust a site's memory by one message."""
    lone, low = np.zeros(size, dtype=np.int64), np.full(size, 3, dtype=np.int64)
    lone[0] = 2**40
    for total in (lone, low, drawn(size, 1e9), drawn(size, 0.5)):
        assert unpack_sum(pack_sum(RoundSum.of(1, total)), size).values.shape == (size,)
    body = bytes([1, 1, 0]) + bytes([255]) * (4 * size) + bytes(size)
    entry = Entry(1, bytes([len(body) & 0x7F | 0x80, len(body) >> 7 & 0x7F | 0x80, len(body) >> 14]) + body)
    with pytest.raises(ValueError, match=f"a sum of {5 * size + 1} bytes, for {size} values"):
        unpack_sum(entry, size)
