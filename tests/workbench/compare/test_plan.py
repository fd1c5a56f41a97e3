"""What a comparison consists of, and what it refuses before anything runs."""

import math
import re
from collections import Counter
from typing import Any

import pytest

from common.config import ConfigError, RunConfig
from common.data import evaluation_examples, private_examples
from tests.support.tiny import TINY, planned
from workbench.compare.plan import Cell, make_cells
from workbench.compare.spec import CENTRALIZED, ComparisonSpec, read_changes, read_epsilons
from workbench.simulation.launcher import read_preset

SMALL: dict[str, Any] = {key: value for key, value in TINY.items() if key.startswith(("lora.", "codec.", "num-"))}
SPEC: dict[str, Any] = {
    "strategies": ["lora", "dr-encoder"],
    "epsilons": [4.0, math.inf],
    "tasks": ["elicitation"],
    "seeds": 2,
    "clients": 6,
}


def cells_of(**changes: Any) -> list[Cell]:
    return make_cells(ComparisonSpec(**(SPEC | changes)), read_preset("demo"), SMALL)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategies": ["lora", "lorra"]}, '"lorra": registered are dr-encoder'),
        ({"strategies": ["lora", "lora"]}, "name each once"),
        ({"strategies": []}, "at least one"),
        ({"strategies": ["dr-encoder+codec.form"]}, "expected key=value"),
        ({"strategies": ["dr-encoder+codec.form=circle"]}, "dr-encoder\\+codec.form=circle at epsilon 4"),
        ({"strategies": ["lora+privacy.epsilon=9"]}, "privacy.epsilon is the comparison's own; use --epsilons"),
        (
            {"strategies": ["lora", "lora+privacy.delta=1e-2"]},
            '"lora\\+privacy.delta=1e-2": with a privacy.delta of its',
        ),
        ({"epsilons": [4.0, 4.0]}, "name each once"),
        (
            {"strategies": ["lora", "random-projection+codec.size=0"]},
            r"random-projection\+codec.size=0 at epsilon 4: codec.size = 0 is out of range; allowed: 1 to ",
        ),
        (
            {"strategies": ["random-projection+codec.form=trained"]},
            'codec.form = "trained": .*allowed: global, per-ten',
        ),
        ({"strategies": ["random-projection+codec.kind=identity"]}, 'codec.kind = "identity": .* needs "linear"'),
        ({"strategies": ["dr-encoder+codec.kind=conv"]}, "codec.size = 64 with codec.kind = 'conv'"),
        ({"tasks": ["algebra"]}, '"algebra": there are elicitation, knowledge'),
        ({"cohort": 7}, "--cohort 7: larger than the 6 clients"),
        ({"seeds": 0}, "--seeds 0: at least 1"),
        ({"trials": 2}, "--trials 2: at least 3"),
        ({"tuning_seeds": 0}, "--tuning-seeds 0: at least 1"),
        ({"controls": "some"}, "learned, all or none"),
    ],
)
def test_a_wish_that_cannot_be_met_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        cells_of(**changes)


@pytest.mark.parametrize(
    ("preset", "message"),
    [
        (
            {"privacy.noise-multiplier": 1.5, "privacy.epsilon": 0.0},
            "privacy.noise-multiplier = 1.5 there is the comparison's own; use --epsilons",
        ),
        ({"privacy.noise-multiplier": 1.5}, "privacy.noise-multiplier = 1.5 there is"),
    ],
)
def test_what_a_preset_would_bring_into_every_run_is_refused(preset: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"--preset: {message}"):
        make_cells(ComparisonSpec(**SPEC), read_preset("demo") | preset, SMALL)


def test_a_whole_configuration_without_them_is_a_preset() -> None:
    """As a run writes it: every key, those that a comparison sets itself among them."""
    assert make_cells(ComparisonSpec(**SPEC), RunConfig.parse(read_preset("demo")).flat(), SMALL) == cells_of()


def test_one_delta_for_all_rows_may_be_given() -> None:
    cells = make_cells(ComparisonSpec(**SPEC), read_preset("demo"), SMALL | {"privacy.delta": 0.01})
    assert {cell.flat["privacy.delta"] for cell in cells if cell.entry.label != CENTRALIZED} == {0.01}


@pytest.mark.parametrize("text", ["", "two", "1,-2", "0", "nan", "1,,2"])
def test_epsilons_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--epsilons"):
        read_epsilons(text)


def test_epsilons_and_keys_are_read_as_written() -> None:
    assert read_epsilons("0.5, 2,inf") == [0.5, 2.0, math.inf]
    assert read_changes(["codec.form=trained", "codec.size=64"], "--set") == {"codec.form": "trained", "codec.size": 64}


@pytest.mark.parametrize("task", ["elicitation", "knowledge"])
def test_steps_are_tuned_on_other_facts_than_those_that_are_evaluated(task: str) -> None:
    cell = cells_of(tasks=[task])[-1]
    asked = []
    for job in (cell.tuning(1.0, 1), cell.evaluation(1.0, 1)):
        config = RunConfig.parse(job.flat)
        examples = evaluation_examples(config.data, config.seed)
        assert examples is not None
        asked.append(set(examples["prompt"]))
        if task == "knowledge":
            asked[-1] |= set(private_examples(config.data, 0, 6, config.seed)["prompt"])
    assert not asked[0] & asked[1]


def test_tuning_and_evaluation_share_no_seed() -> None:
    cell = cells_of(seeds=1000)[-1]
    assert {cell.tuning(1.0, number).flat["seed"] for number in range(1, 9)}.isdisjoint(range(1, 1001))


def test_rows_of_one_epsilon_have_the_same_guarantee(adapted: Any) -> None:
    """Whatever the strategy: the same δ = 1/(10 M), and an ε of the plan just below what was asked for."""
    for cell in (cell for cell in cells_of() if cell.epsilon == 4.0):
        config = RunConfig.parse(cell.flat)
        plan = planned(config, adapted, 6)
        assert plan.delta == pytest.approx(1 / 60)
        assert 3.9 < plan.epsilon <= 4.0


def test_the_centralized_reference_can_be_left_out() -> None:
    assert len(cells_of()) - len(cells_of(centralized=False)) == 1
    assert all(cell.entry.label != CENTRALIZED for cell in cells_of(centralized=False))


def test_every_codec_starts_at_the_steps_of_plain_lora() -> None:
    """The server's step means the same for all: see ``Recipe.step_factor``."""
    cells = cells_of(strategies=["lora", "random-projection", "fedcg"], epsilons=[4.0])
    start = {cell.entry.label: cell.start for cell in cells}
    assert 0.9 * start["lora"] < start["fedcg"] < start["lora"], "a little less: its stage 1 takes budget"
    assert start["random-projection"] == start["lora"]


@pytest.mark.parametrize("clip", [1.0, 4.0])
@pytest.mark.parametrize(
    ("trust", "more"),
    [
        ({"privacy.trust": "central"}, 1.0),
        ({"privacy.trust": "distributed", "privacy.colluders": 0}, 1.0),
        ({"privacy.trust": "distributed", "privacy.colluders": 2}, math.sqrt(6 / 4)),
        ({"privacy.trust": "local"}, math.sqrt(6)),
    ],
)
def test_the_start_rule_knows_the_noise_that_is_really_present(
    adapted: Any, trust: dict[str, Any], more: float, clip: float
) -> None:
    """On the mean of the 6 clients' codes: z/K, more against colluders, and z√K/K where every client adds all of it."""
    spec = ComparisonSpec(**(SPEC | {"strategies": ["lora"], "epsilons": [4.0], "centralized": False}))
    (cell,) = make_cells(spec, read_preset("demo"), SMALL | trust | {"privacy.clip-norm": clip})
    config = RunConfig.parse(cell.flat)
    plan = planned(config, adapted, 6)
    size = adapted.layout.size
    present = plan.mean_noise(size)
    assert present == pytest.approx(more * plan.round.noise_multiplier / 6, rel=1e-3)
    assert present == plan.round_terms(size).total_std(6) / (6 * clip)
    assert cell.start == pytest.approx(0.015 / present, rel=1e-2)


def test_the_centralized_reference_has_all_data_at_one_client_and_no_noise() -> None:
    cells = cells_of()
    central, private = (RunConfig.parse(cell.evaluation(0.1, 2).flat) for cell in (cells[0], cells[1]))
    assert (central.federation.num_clients, central.privacy.is_private) == (1, False)
    pooled = Counter(private_examples(central.data, 0, 1, 2)["prompt"])
    apart = Counter(row for client in range(6) for row in private_examples(private.data, client, 6, 2)["prompt"])
    assert pooled == apart
    assert sum(pooled.values()) == 6 * private.data.examples_per_client
    assert central.train.batch_size == 6 * private.train.batch_size


@pytest.mark.parametrize(
    ("wanted", "with_controls"), [("learned", ["dr-encoder+codec.form=trained", "fedcg"]), ("none", [])]
)
def test_controls_are_run_beside_trained_codecs(wanted: str, with_controls: list[str]) -> None:
    entries = ["lora", "dr-encoder", "dr-encoder+codec.form=trained", "random-projection", "fedcg"]
    cells = cells_of(strategies=entries, epsilons=[4.0], controls=wanted)
    assert [cell.entry.label for cell in cells if cell.controls] == with_controls
    assert all(cell.controls == ("codes-zeroed", "no-update") for cell in cells if cell.controls)


@pytest.mark.parametrize(
    ("strategy", "epsilon", "rate", "said"),
    [
        (
            "fedcg+stage-one.private=false",
            4.0,
            0.1,
            "stage-one.sampling-rate = 0.1 with 6 clients: .* with probability 0.53, and it then fails",
        ),
        ("fedcg", 4.0, 0.1, "with probability 0.53, and its codec is then made of noise"),
        ("fedcg", math.inf, 0.1, "with probability 0.53, and it then fails"),
        ("dr-encoder", 4.0, 0.1, "stage-one.sampling-rate = 0.1 .* 0.536 makes that rarer than 0.01"),
        ("dr-encoder", 4.0, 0.536, ""),
        ("dr-encoder", 4.0, 0.535, "with probability 0.01"),
        ("lora", 4.0, 0.1, ""),
    ],
)
def test_a_stage_one_that_may_ask_nobody_is_warned_of_with_probability_and_key(
    strategy: str, epsilon: float, rate: float, said: str
) -> None:
    rates = {"stage-one.sampling-rate": rate}
    spec = ComparisonSpec(**(SPEC | {"strategies": [strategy], "epsilons": [epsilon], "centralized": False}))
    (cell,) = make_cells(spec, read_preset("demo"), SMALL | rates)
    assert bool(cell.warning) == bool(said)
    assert re.search(said, cell.warning)


def test_the_cohort_is_a_hundred_or_everybody() -> None:
    rates = [cells_of(clients=clients, epsilons=[4.0])[1].flat["privacy.sampling-rate"] for clients in (20, 400)]
    assert rates == [1.0, 0.25]
