"""Statistical tests run on fixed seeds but for one; each states its false-alarm rate for a fresh one."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from common.privacy.accounting import Charge, epsilon
from common.privacy.clipping import NonFiniteError
from common.privacy.mechanism import MAX_SHARES, ReleaseTerms, Trust, check_release, combine, release
from common.privacy.noise import RandomSource
from common.privacy.price import message_charge, noise_slack, outsider_charge
from tests.support.false_alarms import beyond, rms_outside, statistical

TRUSTS: tuple[Trust, ...] = ("central", "distributed", "local")
BAND = (0.9901, 1.0099)
"""Of the root mean square of 1e5 values, over the promised std."""
MISSED = rms_outside(BAND[1] / 1.02, math.inf, 10**5) + rms_outside(0, BAND[0] / 0.98, 10**5)
"""Probability that one of two stds, 2 % too large and 2 % too small, is not noticed."""


def terms(
    trust: Trust = "distributed", *, size: int = 1000, z: float = 1.0, shares: int = 9, clip: float = 0.7
) -> ReleaseTerms:
    return ReleaseTerms(size, clip, z, trust, shares, False)


def std_ratio(values: np.ndarray, std: float) -> float:
    return float(np.sqrt(np.mean(np.square(values / std))))


def client_noise(one: ReleaseTerms, rounds: int, seed: int = 1) -> np.ndarray:
    """Noise of ``rounds`` releases of a zero code by the shipped client path, code units, ``[rounds, size]``."""
    source = RandomSource.insecure(seed)
    return np.stack([release(torch.zeros(one.size), one, source) for _ in range(rounds)]) * one.grid_step


# --- noise: scale, shape, independence --------------------


@pytest.mark.parametrize(("trust", "z"), [("local", 0.6), ("local", 14.0), ("distributed", 0.6), ("distributed", 14.0)])
@statistical(rms_outside(*BAND, 10**5) + MISSED, "seeded")
def test_client_noise_has_the_promised_scale(trust: Trust, z: float) -> None:
    """χ² on 1e5 values: false alarms 9.5e-6, an error of 2 % is missed in 5e-6 on either side."""
    one = terms(trust, z=z)
    promised = z * 0.7 / (3 if trust == "distributed" else 1)
    assert one.client_std == pytest.approx(promised)
    noise = client_noise(one, 100)
    assert BAND[0] < std_ratio(noise, promised) < BAND[1]
    assert std_ratio(client_noise(terms(trust, z=z * 1.02), 100), promised) > BAND[1]
    assert std_ratio(client_noise(terms(trust, z=z * 0.98), 100), promised) < BAND[0]


def test_the_band_catches_an_error_of_two_percent() -> None:
    """Its power, exactly; .99 is asked."""
    assert MISSED < 1e-4
    assert rms_outside(*BAND, 10**5) < 1e-5


def jittered(values: np.ndarray, step: float, seed: int = 2) -> np.ndarray:
    """Spread grid values over their cells, so that a continuous test applies."""
    return values + np.random.default_rng(seed).uniform(-0.5, 0.5, values.shape) * step


@pytest.mark.parametrize("trust", ["local", "distributed"])
@statistical(1e-5, "seeded")
def test_client_noise_is_gaussian_and_laplace_would_be_noticed(trust: Trust) -> None:
    """Kolmogorov-Smirnov on 1e5 values; false alarms 1e-5."""
    one = terms(trust)
    noise = jittered(client_noise(one, 100), one.grid_step).ravel() / one.client_std
    assert stats.kstest(noise, "norm").pvalue > 1e-5
    laplace = np.random.default_rng(3).laplace(scale=1 / math.sqrt(2), size=noise.size)
    assert stats.kstest(laplace, "norm").pvalue < 1e-5


@statistical(beyond(4.5, 2), "system")
def test_client_noise_never_repeats_across_clients_rounds_or_coordinates() -> None:
    """Correlations of 1e5 pairs within 4.5/√n: false alarms 6.8e-6 for each of the two. The source is the system's."""
    one = terms("local")
    noise = np.stack([release(torch.zeros(one.size), one, RandomSource.system()) for _ in range(101)]).astype(float)
    assert len({row.tobytes() for row in noise}) == 101
    by_release = np.corrcoef(noise[:-1].ravel(), noise[1:].ravel())[0, 1]
    by_coordinate = np.corrcoef(noise[:, :-1].ravel(), noise[:, 1:].ravel())[0, 1]
    assert max(abs(by_release), abs(by_coordinate)) < 4.5 / math.sqrt(1e5)


# --- the total: constant whatever the cohort --------------------


@pytest.mark.parametrize(
    ("trust", "shares", "replies"),
    [
        ("distributed", 9, 9),
        ("distributed", 9, 8),
        ("distributed", 9, 3),
        ("distributed", 9, 0),
        ("distributed", 1, 1),
        ("distributed", 0, 0),
        ("distributed", 20, 12),
        ("central", 9, 9),
        ("central", 9, 0),
        ("local", 9, 0),
        ("local", 9, 1),
    ],
)
@statistical(rms_outside(*BAND, 10**5), "seeded")
def test_the_sum_always_carries_the_charged_noise(trust: Trust, shares: int, replies: int) -> None:
    """χ² on 1e5 values; false alarms 9.5e-6 each."""
    one = terms(trust, size=20_000, shares=shares)
    source = RandomSource.insecure(replies + shares)
    sums = []
    for _ in range(5):
        messages = [release(torch.zeros(one.size), one, source) for _ in range(replies)]
        sums.append(combine(messages, one, source).numpy())
    assert BAND[0] < std_ratio(np.stack(sums), 0.7) < BAND[1]


def test_total_variance_is_the_same_number_for_every_cohort() -> None:
    """Exactly, not statistically: the clients' shares plus the server's top-up, all cohorts up to 40."""
    for shares in range(41):
        one = terms("distributed", shares=shares)
        for replies in range(shares + 1):
            total = replies * one.client_grid_std**2 + one.server_grid_std(replies) ** 2
            assert total == pytest.approx(one.resolution**2 + 4, rel=1e-12)


@pytest.mark.parametrize("trust", TRUSTS)
@pytest.mark.parametrize("replies", [0, 1, 8, 9])
def test_the_noise_that_terms_state_for_a_sum_is_what_is_charged_or_more(trust: Trust, replies: int) -> None:
    """In ``local`` every reply brings it all; elsewhere it is the same number whoever is missing."""
    stated, promised = terms(trust).total_std(replies), 1.0 * 0.7
    more = math.sqrt(max(1, replies)) if trust == "local" else 1.0
    assert promised * more < stated < promised * more * 1.0001


def test_terms_without_noise_state_none() -> None:
    assert [terms(trust, z=0.0).total_std(2) for trust in TRUSTS] == [0.0] * 3


@pytest.mark.parametrize("z", [0.3, 1.0, 14.0])
def test_the_grid_does_not_betray_the_cohort(z: float) -> None:
    steps = {terms("distributed", z=z, shares=shares).grid_step for shares in (0, 1, 9, 1000, MAX_SHARES)}
    assert len(steps) == 1


@statistical(2 * rms_outside((1 - 0.045) ** 0.5, (1 + 0.045) ** 0.5, 20_000), "seeded")
def test_in_local_mode_the_variance_does_betray_the_cohort() -> None:
    """Why ``outsider_charge`` claims no amplification there: one sum of 20,000 tells 9 senders from 10."""
    source, spread = RandomSource.insecure(8), []
    for senders in (9, 10):
        one = terms("local", size=20_000, shares=senders)
        sums = combine([release(torch.zeros(one.size), one, source) for _ in range(senders)], one, source)
        spread.append(std_ratio(sums.numpy(), 0.7) ** 2)
    assert abs(spread[0] - 9) < 4.5 * 9 * math.sqrt(2 / 20_000)
    assert abs(spread[1] - 10) < 4.5 * 10 * math.sqrt(2 / 20_000)
    charge = outsider_charge(terms("local", z=5.0), 0.1, trusted_replies=4)
    assert charge == Charge(10.0, 1.0)
    assert outsider_charge(terms("distributed"), 0.1) == Charge(1.0, 0.1)


# --- sums and sensitivity --------------------


@pytest.mark.parametrize("trust", TRUSTS)
def test_without_noise_the_sum_is_the_sum_of_clipped_codes(trust: Trust) -> None:
    one, source = terms(trust, z=0.0, size=3, clip=5.0), RandomSource.insecure(0)
    assert one.dtype == np.float32
    assert one.grid_step == one.client_std == one.message_noise_multiplier == noise_slack(one) == 0
    messages = [release(torch.tensor(code), one, source) for code in ([3.0, 4.0, 0.0], [0.0, 30.0, 40.0])]
    assert combine(messages, one, source).tolist() == pytest.approx([3.0, 7.0, 4.0], rel=1e-6)
    assert combine([], one, source).tolist() == [0, 0, 0]


def test_the_integer_sum_is_exact_far_beyond_the_range_of_one_message() -> None:
    one = terms("local", size=4, z=100.0)
    large = int(one.largest_norm / 2)
    messages = [np.full(4, large, dtype=one.dtype) for _ in range(1000)]
    total = combine(messages, one, RandomSource.insecure(0)).numpy() / one.grid_step
    assert total == pytest.approx(np.full(4, 1000.0 * large), rel=1e-6)


@pytest.mark.parametrize("normalize", [False, True])
def test_leaving_one_client_out_moves_the_sum_by_at_most_the_clip_norm(normalize: bool) -> None:
    """1,000 random neighboring cohorts in zero-out adjacency, with the same noise on both sides."""
    generator = np.random.default_rng(4)
    one = ReleaseTerms(32, 0.7, 1.0, "central", 5, normalize)
    for trial in range(1000):
        codes = generator.standard_normal((5, 32)) * 10 ** generator.uniform(-3, 3, (5, 1))
        messages = [release(torch.from_numpy(code), one, RandomSource.insecure(trial)) for code in codes]
        absent = [*messages[:4], np.zeros(32, dtype=one.dtype)]
        with_client = combine(messages, one, RandomSource.insecure(trial)).double()
        without = combine(absent, one, RandomSource.insecure(trial)).double()
        assert float(torch.linalg.vector_norm(with_client - without)) <= 0.7 * (1 + 1e-6)


@statistical(beyond(5.5, 64), "seeded")
def test_codes_arrive_undistorted_but_for_the_noise() -> None:
    """The mean of 400 sums of 3 equal codes, per coordinate, at 5.5 σ; false alarms 64·4e-8."""
    one, source = terms("distributed", size=64, z=0.5, shares=3, clip=1.0), RandomSource.insecure(6)
    code = torch.linspace(-1, 1, 64) / 6
    sums = [combine([release(code, one, source) for _ in range(3)], one, source) for _ in range(400)]
    error = torch.stack(sums).mean(dim=0) - 3 * code
    assert float(error.abs().max()) < 5.5 * 0.5 / math.sqrt(400)


# --- the wire --------------------


@pytest.mark.parametrize("trust", TRUSTS)
@pytest.mark.parametrize("z", [1e-3, 0.3, 1.0, 14.0, 300.0])
@pytest.mark.parametrize("size", [1, 1024, 200_000])
def test_no_honest_value_can_leave_its_type(trust: Trust, z: float, size: int) -> None:
    one = terms(trust, z=z, size=size)
    assert one.largest_value <= np.iinfo(one.dtype).max
    message = release(torch.ones(size), one, RandomSource.insecure(1))
    assert message.dtype == one.dtype
    check_release(message, one)


def test_a_common_code_takes_two_bytes_per_value() -> None:
    for trust in TRUSTS:
        assert terms(trust, size=1024, z=1.0, shares=10).dtype == np.int16


def test_messages_no_honest_client_sends_are_refused() -> None:
    one, source = terms("central", size=4), RandomSource.insecure(0)
    steps = one.resolution
    check_release(np.array([steps, 0, 0, 0], dtype=np.int16), one)
    with pytest.raises(ValueError, match="exceeds the clip norm"):
        combine([np.array([steps, steps, 0, 0], dtype=np.int16)], one, source)
    with pytest.raises(ValueError, match="shape"):
        combine([np.zeros(5, dtype=np.int16)], one, source)
    with pytest.raises(ValueError, match="dtype"):
        combine([np.zeros(4, dtype=np.float32)], one, source)
    local = terms("local", size=4)
    with pytest.raises(ValueError, match="beyond"):
        check_release(np.full(4, local.largest_value + 1, dtype=local.dtype), local)
    with pytest.raises(ValueError, match="exceeds what an honest client's ever is"):
        check_release(np.full(4, local.largest_value, dtype=local.dtype), local)
    few = terms("distributed", size=4, shares=2)
    with pytest.raises(ValueError, match="3 releases for 2 shares"):
        combine([np.zeros(4, dtype=few.dtype)] * 3, few, source)


def test_codes_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="2 values"):
        release(torch.ones(2), terms("local", size=3), RandomSource.insecure(0))


BROKEN = [math.nan, math.inf, -math.inf]


@pytest.mark.parametrize("value", BROKEN)
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("trust", TRUSTS)
@statistical(rms_outside(0.88, 1.12, 1000), "seeded")
def test_a_code_that_is_not_finite_is_released_as_the_zero_code(trust: Trust, normalize: bool, value: float) -> None:
    """An error would be an answer without noise; the zero code is the neighbor that the noise hides."""
    one = ReleaseTerms(1000, 0.7, 1.0, trust, 9, normalize)
    broken = torch.ones(one.size)
    broken[17] = value
    released = release(broken, one, RandomSource.insecure(3))
    assert np.array_equal(released, release(torch.zeros(one.size), one, RandomSource.insecure(3)))
    check_release(released, one)
    if one.client_std:
        assert 0.88 < std_ratio(released * one.grid_step, one.client_std) < 1.12


@pytest.mark.parametrize("value", BROKEN)
def test_without_noise_a_code_that_is_not_finite_is_an_error(value: float) -> None:
    with pytest.raises(NonFiniteError):
        release(torch.tensor([1.0, value, 0.0]), terms("local", size=3, z=0.0), RandomSource.insecure(0))


@pytest.mark.parametrize(
    "change",
    [
        {"size": 0},
        {"clip": 0.0},
        {"clip": math.nan},
        {"z": -1.0},
        {"z": math.inf},
        {"z": 1e-9},
        {"shares": -1},
        {"shares": MAX_SHARES + 1},
        {"trust": "none"},
        {"z": 1e6, "size": 10**6, "trust": "local"},
    ],
)
def test_impossible_terms_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"size|clip norm|noise multiplier|shares|trust"):
        terms(**change)


# --- what is claimed --------------------


def test_one_message_is_worth_what_its_terms_say() -> None:
    assert terms("distributed", shares=9).message_noise_multiplier == pytest.approx(1 / 3, rel=1e-5)
    assert terms("distributed", shares=9).message_noise_multiplier <= 1 / 3
    assert terms("local", z=3.0).message_noise_multiplier == pytest.approx(3.0, rel=1e-12)
    assert epsilon([message_charge(terms("central"))], 1e-5) == math.inf


def test_what_is_not_exact_costs_a_negligible_delta() -> None:
    for trust in TRUSTS:
        for size in (1024, 10**6):
            assert 0 < noise_slack(terms(trust, size=size, shares=100)) < 1e-11
    assert noise_slack(terms("distributed", size=10**6, shares=MAX_SHARES)) < 1e-7


def test_slack_grows_with_what_can_go_wrong() -> None:
    sizes = [noise_slack(terms(size=size)) for size in (10, 1000, 10**5)]
    assert all(small < large for small, large in pairwise(sizes))
    assert noise_slack(terms(shares=50)) > noise_slack(terms(shares=5))
