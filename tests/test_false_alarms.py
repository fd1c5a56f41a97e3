"""All statistical tests together: none is forgotten, the totals hold, docs/privacy.md says the same."""

import inspect
import math
import re
from pathlib import Path

import numpy as np
import pytest

from tests.support.audit import mu_lower_bound
from tests.support.false_alarms import (
    Statistical,
    all_tests,
    audit_outside,
    beyond,
    correlation_beyond,
    count_outside,
    figure,
    registered,
    rms_outside,
    statistical,
    totals,
)

LIMIT = 1e-3
"""On what all of them together may fail by chance: a run of the tests, and a run on fresh seeds."""

SIGNS = re.compile(
    r"kstest|chisquare|chi2|binomtest|corrcoef|std_ratio|\.std\(|\.var\(|square\(\)\.mean\(|RandomSource\.system|"
    r"NOISY|standard (error|deviation)|σ;|alarm"
)
"""What a statistical test has in its source; those without the marker have to be listed below, with the reason."""

UNMARKED: dict[str, set[str]] = {
    "counts, charges, texts, bytes or exceptions are asserted, which the noise in the run does not decide": {
        "test_epsilon_is_that_of_the_rounds_alone",
        "test_a_run_most_of_whose_rounds_were_empty_does_not_end_as_a_plain_success",
        "test_no_adapter_is_scored_twice",
        "test_stage_one_is_not_charged_before_enough_are_online_either",
        "test_the_noise_floor_is_that_of_the_noise_that_is_present",
        "test_every_figure_of_a_round_is_there_under_its_round",
        "test_every_charge_is_on_disk_before_its_messages_are_sent",
        "test_an_epsilon_beyond_twenty_says_that_it_is_not_claimed",
        "test_bytes_are_those_of_a_message_times_the_expected_cohorts",
        "test_a_run_with_reproducible_noise_claims_nothing",
        "test_the_written_configuration_is_that_of_the_run_but_for_its_name",
        "test_an_existing_folder_is_never_written_into",
        "test_a_run_is_resumed_with_as_many_clients_as_it_was_planned_for",
        "test_a_round_goes_on_without_the_clients_that_failed",
        "test_too_many_failed_rounds_in_a_row_end_the_run_with_the_commonest_reason",
        "test_the_run_stops_when_the_budget_is_spent",
        "test_the_last_round_that_the_budget_affords_is_evaluated",
        "test_an_instruction_of_stage_one_does_not_tell_how_many_clients_were_selected",
        "test_a_statistics_cohort_beyond_the_noise_shares_counts_as_empty",
        "test_a_private_code_of_256_values_is_60_times_smaller_than_plain_lora",
        "test_a_million_values_take_seconds_at_most",
        "test_a_client_refuses_a_proxy_that_is_not_of_its_adapter",
        "test_a_failure_while_collecting_from_a_sites_own_data_is_answered_with_noise",
        "test_terms_that_do_not_fit_the_gradients_are_refused_before_data_or_budget_are_touched",
        "test_a_client_whose_gradients_are_not_finite_releases_noise",
        "test_a_client_knows_stage_one_from_its_instruction_alone",
        "test_a_resumed_run_ends_where_an_uninterrupted_one_ends",
        "test_a_site_refuses_naming_its_limit",
        "test_a_site_refuses_what_is_beyond_its_policy_whatever_the_strategy",
        "test_dr_encoder_says_what_its_statistics_save",
        "test_gradients_are_asked_for_in_the_clear_only_when_nothing_was_to_be_private",
        "test_in_the_clear_no_epsilon_is_claimed_and_the_report_says_why",
        "test_the_bytes_in_the_report_are_those_on_the_wire",
        "test_no_message_of_a_client_reaches_the_codec_but_through_the_released_adapter",
        "test_rows_fade_at_the_noise_of_the_whole_run",
        "test_the_prior_is_made_anew_when_it_is_due_and_at_the_released_model",
        "test_captured_energy_is_named_after_what_it_was_measured_on",
    },
    "it fails only if hundreds of random bits or thousands of noisy values coincide": {
        "test_only_the_operating_system_is_a_secure_source",
        "test_the_run_recovers_when_the_clients_do",
        "test_an_instruction_does_not_tell_how_many_clients_were_selected",
    },
    "there is no noise: the bound is exact": {
        "test_one_client_moves_the_aggregate_by_the_clip_norm_at_most",
        "test_one_client_moves_the_statistics_by_their_bound_at_most",
        "test_rows_of_every_form_are_orthonormal_and_their_energies_true",
    },
    "it computes the same figure in two ways": {
        "test_the_moments_are_those_of_numpy",
        "test_many_values_leave_the_limit_no_more_often_and_the_limit_is_no_larger_than_needed",
    },
}

PAGE = Path(__file__).parents[1] / "docs" / "privacy.md"


@pytest.fixture(scope="module")
def marked() -> list[Statistical]:
    return registered()


def test_every_statistical_test_is_marked_or_listed_with_the_reason(marked: list[Statistical]) -> None:
    """By what its source holds, so that a new one is noticed; and no reason outlives its test."""
    known = {test.name for test in marked} | {"test_every_statistical_test_is_marked_or_listed_with_the_reason"}
    suspects = {name for _, name, function in all_tests() if SIGNS.search(inspect.getsource(function))} - known
    assert suspects == set().union(*UNMARKED.values())


@pytest.mark.parametrize("source", ["system", "seeded"])
def test_all_together_hardly_ever_fail_by_chance(marked: list[Statistical], source: str) -> None:
    """On the system's randomness whenever the tests run; with that on the seeded ones too, if all seeds were fresh."""
    found = totals(marked)
    assert 0 < (found["system"] if source == "system" else sum(found.values())) < LIMIT


def test_no_rate_hides_in_a_file_that_the_page_does_not_list(marked: list[Statistical]) -> None:
    """Each row's figures are those of the files that it names, and the rows name every file."""
    seen: set[str] = set()
    section = PAGE.read_text().split("## What the tests would catch")[1].split("\n## ")[0]
    for row in re.findall(r"^\| .*`tests/.*\|$", section, re.MULTILINE):
        tests, _, *figures = (cell.strip() for cell in row.strip("|").split("|"))
        files = set(re.findall(r"`(tests/[\w/]+\.py)`", tests))
        own = totals(test for test in marked if test.file in files)
        assert figures == [figure(own["system"]), figure(own["seeded"])], row
        seen |= files
    assert {test.file for test in marked} <= seen
    whole = totals(marked)
    assert f"{figure(whole['system'])} in all" in section
    assert f"{figure(sum(whole.values()))} with fresh seeds" in section


def test_the_rates_are_those_of_the_laws() -> None:
    assert beyond(1.959964, 3) == pytest.approx(0.15, rel=1e-5)
    assert rms_outside((3.940299 / 10) ** 0.5, (18.307038 / 10) ** 0.5, 10) == pytest.approx(0.1, rel=1e-5)
    assert count_outside(2, 8, 10, 0.5) == pytest.approx(22 / 1024)
    assert correlation_beyond(0.632, 10) == pytest.approx(0.05, rel=2e-3)  # the tables' critical value
    assert [figure(rate) for rate in (0.0, 1e-5, 2.1e-5, 9.2e-5)] == ["-", "1·10⁻⁵", "3·10⁻⁵", "1·10⁻⁴"]


@statistical(beyond(5, 2), "seeded")
def test_the_audits_rate_is_that_of_the_audit() -> None:
    """600 audits of 300 runs at a level that often fails, on either side: each share within 5 standard errors."""
    generator = np.random.default_rng(1)
    found = np.array(
        [mu_lower_bound(lambda there: float(generator.normal() + there), 0.5, 300, 0.5) for _ in range(600)]
    )
    for low, high in ((0.8, 9.0), (-9.0, 1.0)):
        share, expected = float(np.mean((found < low) | (found > high))), audit_outside(1.0, low, high, 300, 0.5)
        assert 0.05 < expected < 0.5
        assert abs(share - expected) < 5 * math.sqrt(expected * (1 - expected) / 600)
