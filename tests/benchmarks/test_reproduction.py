import logging
import math
from pathlib import Path

import pytest

from benchmarks.paper_tables import (
    LLAMA,
    QWEN,
    SETTINGS,
    Row,
    Setting,
    library_epsilon,
    matches,
    renyi_epsilon,
    sampled_divergence,
    true_epsilon,
)
from benchmarks.reproduction import figure_points, pages
from common.privacy.accounting import Charge, rdp_epsilon

FOLDER = Path(__file__).parents[2] / "docs" / "reproduction"
ROWS = [(setting, row) for setting in SETTINGS for row in setting.rows]


@pytest.fixture(scope="module")
def written() -> dict[str, str]:
    logging.getLogger("absl").setLevel(logging.ERROR)
    return pages()


@pytest.mark.parametrize(("setting", "row"), ROWS, ids=lambda value: getattr(value, "name", ""))
def test_equation_7_gives_the_printed_sigma_at_two_decimals(setting: Setting, row: Row) -> None:
    assert matches(setting.sigma(row), row.sigma)


@pytest.mark.parametrize(("setting", "row"), ROWS, ids=lambda value: getattr(value, "name", ""))
def test_the_rdp_column_comes_out_at_the_unrounded_sigma(setting: Setting, row: Row) -> None:
    assert matches(renyi_epsilon(setting, setting.sigma(row), setting.rdp_rounds), row.rdp)


def test_no_row_of_qwen_has_the_stated_four_rounds_in_its_rdp_column() -> None:
    assert QWEN.rounds == 4
    assert not any(matches(renyi_epsilon(QWEN, QWEN.sigma(row), 4), row.rdp) for row in QWEN.rows)
    assert renyi_epsilon(QWEN, QWEN.sigma(QWEN.rows[0]), 4) == pytest.approx(6.72, abs=0.005)


def test_the_printed_sigma_is_too_coarse_for_the_rdp_column() -> None:
    at_printed = [matches(renyi_epsilon(LLAMA, row.sigma, 20), row.rdp) for row in LLAMA.rows]
    assert at_printed == [False] * 4 + [True] * 2


@pytest.mark.parametrize("order", [2.0, 5.0, 12.0, 63.0])
def test_the_divergence_is_that_of_dp_accounting_at_whole_orders(order: float) -> None:
    conversion = math.log1p(-1 / order) - math.log(1e-5 * order) / (order - 1)
    ours = 20 * sampled_divergence(0.7, 0.05, order) + conversion
    assert ours == pytest.approx(rdp_epsilon([Charge(0.7, 0.05, 20)], 1e-5, [order]), rel=1e-9)


def test_the_divergence_without_sampling_is_that_of_the_gaussian() -> None:
    assert sampled_divergence(1.5, 1.0, 2.5) == pytest.approx(2.5 / (2 * 1.5**2), rel=1e-9)


@pytest.mark.parametrize("row", LLAMA.rows, ids=lambda row: str(row.sigma))
def test_dp_accounting_bounds_the_exact_rdp_epsilon_and_both_bound_the_true_one(row: Row) -> None:
    sigma = LLAMA.sigma(row)
    exact, bound = renyi_epsilon(LLAMA, sigma, 20), library_epsilon(LLAMA, sigma, 20)
    assert true_epsilon(LLAMA, sigma, LLAMA.delta) < exact <= bound * (1 + 1e-9) < exact * 1.003


def test_the_curves_of_figure_1_rise_and_end_at_the_rdp_column() -> None:
    points = figure_points()
    for setting, row in ROWS:
        curve = [value for name, sigma, _, value in points if (name, sigma) == (setting.name, row.sigma)]
        assert curve == sorted(curve)
        assert matches(curve[-1], row.rdp)


@pytest.mark.parametrize("name", ["README.md", "table3.md", "claimed.md", "figure1.csv"])
def test_the_committed_pages_are_what_the_script_writes(written: dict[str, str], name: str) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8") == written[name], "run `make reproduce`"


def test_the_figure_is_there() -> None:
    assert (FOLDER / "figure1.png").read_bytes().startswith(b"\x89PNG")
