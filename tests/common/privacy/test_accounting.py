import logging
import math

import pytest

from common.privacy.accounting import (
    PAPER_ORDERS,
    ROUNDING,
    Charge,
    CrossCheckUnavailable,
    RunningAccountant,
    calibrate,
    check_delta,
    cross_check,
    default_delta,
    epsilon,
    gaussian_delta,
    gaussian_epsilon,
    gaussian_mu,
    gdp_clt_mu,
    max_rounds,
    rdp_epsilon,
)
from common.privacy.crosscheck import prv_bounds
from common.privacy.delta import SMALLEST_DELTA

DELTA = 1e-5


@pytest.mark.parametrize(
    ("charges", "golden"),
    [
        ([Charge(1.0)], 4.3772),
        ([Charge(4.0, 1.0, 50)], 8.5959),
        ([Charge(1.0, 0.1, 100)], 7.0466),
    ],
)
def test_goldens(charges: list[Charge], golden: float) -> None:
    assert epsilon(charges, DELTA) == pytest.approx(golden, rel=1e-3)


def test_rdp_golden() -> None:
    assert epsilon([Charge(4.0, 1.0, 50)], DELTA, "rdp") == pytest.approx(9.2350, rel=1e-3)


@pytest.mark.parametrize(
    ("budget", "printed", "true"), [(8, 0.46, 5.29), (2, 0.60, 2.47), (0.5, 1.00, 0.63), (0.25, 1.45, 0.29)]
)
def test_table_3_understates_the_privacy_loss_it_reports(budget: float, printed: float, true: float) -> None:
    """The paper solved equation (7) for σ and printed two decimals; the true ε is that of the unrounded σ."""
    low, high = 0.3, 5.0
    for _ in range(50):
        middle = (low + high) / 2
        worse = epsilon([Charge(middle, 0.05, 20)], 1 / 149, "gdp") > budget
        low, high = (middle, high) if worse else (low, middle)
    assert round(high, 2) == printed
    assert epsilon([Charge(high, 0.05, 20)], 1 / 149, grid=1e-3) == pytest.approx(true, abs=0.0051)


@pytest.mark.parametrize(("budget", "sigma"), [(8, 1.10), (4, 1.63), (2, 2.64), (1, 4.47), (0.5, 7.70), (0.25, 13.24)])
def test_table_3_noise_multipliers_of_qwen(budget: float, sigma: float) -> None:
    edges = [gaussian_epsilon(gdp_clt_mu(sigma + shift, 1.0, 4), 1 / 285) for shift in (-0.005, 0.005)]
    assert edges[1] <= budget <= edges[0]


@pytest.mark.parametrize(("sigma", "printed"), [(1.00, 1.00), (1.45, 0.42)])
def test_table_3_rdp_column_of_llama(sigma: float, printed: float) -> None:
    assert rdp_epsilon([Charge(sigma, 0.05, 20)], 1 / 149, PAPER_ORDERS) == pytest.approx(printed, abs=0.006)


@pytest.mark.parametrize(("sigma", "printed"), [(7.70, 0.69), (13.24, 0.36)])
def test_table_3_rdp_column_of_qwen_is_for_five_rounds_not_four(sigma: float, printed: float) -> None:
    five = rdp_epsilon([Charge(sigma, 1.0, 5)], 1 / 285, PAPER_ORDERS)
    four = rdp_epsilon([Charge(sigma, 1.0, 4)], 1 / 285, PAPER_ORDERS)
    assert five == pytest.approx(printed, abs=0.006)
    assert abs(four - printed) > 0.04


@pytest.mark.parametrize(("multiplier", "rounds"), [(1.0, 1), (4.0, 50), (30.0, 1000), (0.7, 2)])
def test_pld_agrees_with_the_exact_gaussian_from_above(multiplier: float, rounds: int) -> None:
    running = RunningAccountant(DELTA)
    running.charge(Charge(multiplier, 1.0, rounds))
    exact = gaussian_epsilon(math.sqrt(rounds) / multiplier, DELTA)
    assert exact - 1e-9 <= running.epsilon() <= exact * (1 + 1e-3) + 1e-3
    assert running.certify() == pytest.approx(exact, rel=1e-9)


def test_the_sampled_gaussian_at_one_round_matches_its_closed_form() -> None:
    """δ(ε) of one Poisson-sampled Gaussian in closed form: p·δ_Gauss(ln(1 + (e^ε − 1)/p))."""
    rate, multiplier = 0.1, 1.0
    found = epsilon([Charge(multiplier, rate)], DELTA)
    inner = math.log1p(math.expm1(found) / rate)
    assert rate * gaussian_delta(1 / multiplier, inner) == pytest.approx(DELTA, rel=1e-3)


def test_orders_that_cannot_be_summed_are_left_out_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    """dp_accounting tells of each; ``budget --accountant rdp`` printed dozens of such lines before its answer."""
    charge = [Charge(3.61588, 0.5, 30)]
    with caplog.at_level(logging.WARNING, "absl"):
        assert 1.9 < rdp_epsilon(charge, 1 / 300) < 3
        assert not caplog.records
        logging.getLogger("absl").warning("another word")
        assert [record.message for record in caplog.records] == ["another word"]


def test_rdp_is_never_below_pld_and_pld_is_monotone() -> None:
    base = epsilon([Charge(1.0, 0.1, 20)], DELTA, grid=1e-3)
    assert rdp_epsilon([Charge(1.0, 0.1, 20)], DELTA) >= base
    assert rdp_epsilon([Charge(2.0, 1.0, 20)], DELTA) >= epsilon([Charge(2.0, 1.0, 20)], DELTA)
    assert epsilon([Charge(1.0, 0.1, 25)], DELTA, grid=1e-3) > base
    assert epsilon([Charge(1.0, 0.12, 20)], DELTA, grid=1e-3) > base
    assert epsilon([Charge(0.9, 0.1, 20)], DELTA, grid=1e-3) > base
    assert epsilon([Charge(1.0, 0.1, 20)], DELTA / 10, grid=1e-3) > base


def test_a_coarser_grid_is_never_below_a_finer_one() -> None:
    for charges in ([Charge(1.0, 0.1, 100)], [Charge(9.0), Charge(3.0, 0.1, 500)]):
        fine, coarse, coarser = (epsilon(charges, DELTA, grid=grid) for grid in (1e-4, 1e-3, 5e-3))
        assert fine <= coarse <= coarser < fine * 1.01


def test_a_release_without_noise_costs_everything() -> None:
    assert epsilon([Charge(1.0), Charge(0.0)], DELTA) == math.inf
    assert rdp_epsilon([Charge(0.0)], DELTA) == math.inf
    running = RunningAccountant(DELTA)
    running.charge(Charge(0.0, 0.1))
    assert running.epsilon() == running.certify() == math.inf
    assert isinstance(cross_check([Charge(0.0)], DELTA), str)


def test_nothing_released_costs_nothing() -> None:
    assert epsilon([], DELTA) == 0
    assert epsilon([Charge(0.0, 0.5, 0), Charge(1.0, 0.0, 5)], DELTA) == 0
    assert RunningAccountant(DELTA).epsilon() == 0


@pytest.mark.parametrize("bad", [(-1.0, 1.0, 1), (math.nan, 1.0, 1), (1.0, 1.1, 1), (1.0, 0.5, -1)])
def test_impossible_charges_are_refused(bad: tuple[float, float, int]) -> None:
    with pytest.raises(ValueError, match="must"):
        Charge(*bad)


def test_the_running_figure_is_an_upper_bound_that_never_falls() -> None:
    running, last = RunningAccountant(1e-5, slack=1e-6), 0.0
    running.charge(Charge(15.0, label="statistics"))
    for _ in range(30):
        running.charge(Charge(1.0, 0.1))
        assert running.epsilon() >= last
        last = running.epsilon()
    certified = epsilon([Charge(15.0), Charge(1.0, 0.1, 30)], 9e-6)
    assert running.certify() == pytest.approx(certified, rel=1e-12)
    assert certified <= last <= certified * 1.002


@pytest.mark.parametrize(
    ("budget", "sigma"), [(8, 0.558), (4, 0.746), (2, 0.998), (1, 1.366), (0.5, 2.04), (0.25, 3.38)]
)
def test_calibration_goldens(budget: float, sigma: float) -> None:
    assert calibrate(budget, DELTA, sampling_rate=0.05, rounds=20) == pytest.approx(sigma, rel=3e-3)


def test_calibration_without_sampling() -> None:
    assert calibrate(2.0, DELTA, sampling_rate=1.0, rounds=50) == pytest.approx(14.098, rel=1.2e-3)


@pytest.mark.parametrize(
    ("budget", "rate", "rounds", "before", "slack"),
    [
        (2.0, 0.05, 20, (), 0.0),
        (1.0, 0.1, 1000, (Charge(20.0),), 1e-6),
        (4.0, 1.0, 10, (Charge(3.0, 0.2, 5),), 0.0),
    ],
)
def test_calibrated_noise_keeps_the_budget_and_wastes_under_one_percent(
    budget: float, rate: float, rounds: int, before: tuple[Charge, ...], slack: float
) -> None:
    found = calibrate(budget, DELTA, sampling_rate=rate, rounds=rounds, before=before, slack=slack)
    assert epsilon([*before, Charge(found, rate, rounds)], DELTA - slack) <= budget
    assert epsilon([*before, Charge(found * 0.99, rate, rounds)], DELTA - slack) > budget


def test_calibration_says_when_nothing_is_left() -> None:
    with pytest.raises(ValueError, match="no budget left"):
        calibrate(1.0, DELTA, sampling_rate=0.1, rounds=5, before=[Charge(1.0)])
    with pytest.raises(ValueError, match="slack"):
        calibrate(1.0, DELTA, sampling_rate=0.1, rounds=5, slack=DELTA)
    assert calibrate(1000.0, DELTA, sampling_rate=0.1, rounds=1) == pytest.approx(0.1, rel=0.01)


def test_max_rounds_is_the_last_that_fits() -> None:
    rounds = max_rounds(2.0, DELTA, noise_multiplier=1.0, sampling_rate=0.05)
    assert epsilon([Charge(1.0, 0.05, rounds)], DELTA) <= 2.0
    assert epsilon([Charge(1.0, 0.05, rounds + 1)], DELTA) > 2.0
    assert max_rounds(2.0, DELTA, noise_multiplier=14.099, sampling_rate=1.0) == 50
    assert max_rounds(1.0, DELTA, noise_multiplier=0.2, sampling_rate=1.0) == 0
    assert max_rounds(50.0, DELTA, noise_multiplier=5.0, sampling_rate=0.1, limit=3) == 3


def test_pld_lies_in_the_bracket_of_the_prv_accountant() -> None:
    bounds = cross_check([Charge(1.0, 0.1, 100)], DELTA)
    assert not isinstance(bounds, str), bounds
    assert bounds == pytest.approx((7.027, 7.067), abs=2e-3)
    assert bounds[0] <= epsilon([Charge(1.0, 0.1, 100)], DELTA, grid=1e-3) <= bounds[1]


def test_a_cross_check_that_fails_is_a_sentence_not_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "did not end in its time" in cross_check([Charge(1.0, 0.1, 100)], DELTA, timeout=0.05)
    monkeypatch.setattr("common.privacy.crosscheck.sys.executable", "/bin/false")
    assert "failed" in cross_check([Charge(1.0, 0.1, 100)], DELTA)
    with pytest.raises(CrossCheckUnavailable):
        epsilon([Charge(1.0, 0.1, 100)], DELTA, "prv")


def test_a_prv_accountant_that_wants_too_much_memory_is_ended_and_says_so() -> None:
    """What it wants here fits into 300 MiB; what it has when the limit is set is more than these 51."""
    with pytest.raises(CrossCheckUnavailable, match=r"the PRV accountant failed: .*(MemoryError|allocate)"):
        prv_bounds([(1.0, 0.1, 100)], DELTA, epsilon_error=0.02, timeout=60, memory_gib=0.05)


def test_gdp_is_only_stated_for_one_kind_of_charge() -> None:
    with pytest.raises(ValueError, match="one kind"):
        epsilon([Charge(1.0), Charge(1.0, 0.1)], DELTA, "gdp")
    with pytest.raises(ValueError, match="one kind"):
        epsilon([Charge(3.0), Charge(5.0)], DELTA, "gdp")
    with pytest.raises(ValueError, match="accountant"):
        epsilon([Charge(1.0)], DELTA, "moments")


@pytest.mark.parametrize("charges", [[Charge(3.0, 1.0, 9)], [Charge(3.0)] * 9])
def test_gdp_counts_rounds_that_ask_everybody_one_by_one(charges: list[Charge]) -> None:
    """Equation (7) is not additive in 1/z²: nine rounds at z = 3 are not one at z = 1."""
    assert epsilon(charges, DELTA, "gdp") == pytest.approx(
        gaussian_epsilon(math.sqrt(9 * math.expm1(1 / 9)), DELTA), rel=1e-9
    )


def test_gaussian_conversions_invert_each_other() -> None:
    for mu in (1e-3, 0.3, 1.0, 8.0):
        for delta in (1e-9, 1e-5, 1e-4):
            found = gaussian_epsilon(mu, delta)
            if found:
                assert gaussian_delta(mu, found) <= delta
                assert gaussian_delta(mu, found * (1 - 1e-9)) > delta
                assert gaussian_mu(found, delta) == pytest.approx(mu, rel=1e-9)


def test_delta_at_one_over_the_clients_is_refused() -> None:
    assert default_delta(100) == pytest.approx(1e-3)
    check_delta(default_delta(100), 100)
    for delta in (0.01, 0.5, 0.0, -1e-9):
        with pytest.raises(ValueError, match=r"delta = .* M = 100"):
            check_delta(delta, 100)
    check_delta(SMALLEST_DELTA, 100)
    with pytest.raises(ValueError, match="delta = 1e-11 is below 1e-10: no epsilon is claimed there"):
        check_delta(1e-11, 100)


@pytest.mark.parametrize(
    ("charge", "delta", "least"),
    [
        (Charge(0.5, 0.001, 1000), 1e-13, 10.400),
        (Charge(0.5, 0.001, 1000), 2e-14, 11.021),
        (Charge(0.8, 0.05, 200), 1e-13, 16.0776),
        (Charge(0.8, 0.05, 200), 2e-14, 16.734),
        (Charge(0.8, 0.05, 200), 2e-11, 13.7282),
        (Charge(0.5, 0.001, 1000), 1e-10, 7.556),
    ],
)
def test_rounding_of_the_convolutions_lowers_no_epsilon(charge: Charge, delta: float, least: float) -> None:
    """``least``: computed with numbers of 80 bits and all losses rounded down, so the true epsilon is above it."""
    running = RunningAccountant(delta)
    running.charge(charge)
    assert min(epsilon([charge], delta), running.epsilon(), running.certify()) > least


def test_of_a_delta_that_rounding_eats_no_epsilon_is_claimed() -> None:
    sampled = Charge(1.0, 0.1, 10)
    assert math.isinf(epsilon([sampled], ROUNDING))
    assert epsilon([Charge(1.0, 1.0, 10)], 1e-13) == gaussian_epsilon(math.sqrt(10), 1e-13), "exact without a grid"
