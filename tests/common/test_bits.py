"""Integers in the bits that their range needs."""

import math

import numpy as np
import pytest

from common.wire.bits import pack, packed_size, unpack

BASES = (2, 3, 7, 20_319, 2**16, 2**31 + 1, 2**33)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 256, 200_001])
def test_values_come_back_and_take_the_size_that_is_told(base: int, count: int) -> None:
    values = np.random.default_rng(count).integers(0, base, count)
    data = pack(values, base)
    assert len(data) == packed_size(count, base)
    np.testing.assert_array_equal(unpack(data, count, base), values)


@pytest.mark.parametrize("base", BASES)
def test_the_ends_of_the_range_come_back(base: int) -> None:
    for value in (0, base - 1):
        assert unpack(pack(np.full(9, value), base), 9, base).tolist() == [value] * 9


@pytest.mark.parametrize("base", [7, 20_319, 39_999])
def test_a_value_takes_a_fifth_of_a_bit_more_than_it_must_at_most(base: int) -> None:
    assert 8 * packed_size(12_000, base) / 12_000 < math.log2(base) + 0.2


def test_what_no_values_are_packed_as_is_refused() -> None:
    with pytest.raises(ValueError, match="5 bytes, expected 4 for 3 values out of 1000"):
        unpack(bytes(5), 3, 1000)
    with pytest.raises(ValueError, match="not out of 1000"):
        unpack(b"\xff" * 4, 3, 1000)
