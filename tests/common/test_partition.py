"""Who holds which examples."""

import math
import warnings
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.config import ConfigError, DataConfig
from common.data import private_examples
from tests.support.example_rows import ROWS, parts
from tests.support.false_alarms import statistical
from tests.support.tiny import write_jsonl


@pytest.mark.parametrize(("partitioner", "clients"), [("iid", 5), ("dirichlet", 5), ("natural", 4)])
def test_partitions_are_disjoint_and_cover_everything(sorted_file: str, partitioner: str, clients: int) -> None:
    drawn = parts(DataConfig(name=sorted_file, partitioner=partitioner), clients)
    prompts = [prompt for part in drawn for prompt in part["prompt"]]
    assert Counter(prompts) == Counter(row["prompt"] for row in ROWS)
    assert [len(part) for part in drawn] == [40 // clients] * clients


@pytest.mark.parametrize("partitioner", ["iid", "dirichlet"])
def test_partitions_are_those_of_the_seed(sorted_file: str, partitioner: str) -> None:
    data = DataConfig(name=sorted_file, partitioner=partitioner)
    first, again, other = (
        [list(part["prompt"]) for part in parts(data.model_copy(update={"dirichlet_alpha": alpha}), 5, seed)]
        for seed, alpha in ((1, 0.3), (1, 0.3), (2, 0.3))
    )
    assert first == again
    assert first != other


@statistical(6 * 2 / math.comb(40, 20), "seeded")
def test_iid_clients_of_a_sorted_file_hold_groups_from_all_over_it(sorted_file: str) -> None:
    """2 clients with 20 rows of 4 groups of 10: unshuffled both would hold two groups, shuffled one does in 9e-11."""
    for part in parts(DataConfig(name=sorted_file, partitioner="iid"), 2):
        assert len(set(part["group"])) > 2


def test_a_small_concentration_gives_each_client_few_groups(sorted_file: str) -> None:
    def largest_share(alpha: float) -> float:
        data = DataConfig(name=sorted_file, partitioner="dirichlet", dirichlet_alpha=alpha)
        return sum(max(Counter(part["group"]).values()) / len(part) for part in parts(data, 4)) / 4

    assert largest_share(0.05) > largest_share(1000.0) + 0.15


def test_natural_clients_hold_one_group_each(sorted_file: str, capfd: pytest.CaptureFixture[str]) -> None:
    groups = [set(part["group"]) for part in parts(DataConfig(name=sorted_file, partitioner="natural"), 4)]
    assert sorted(groups, key=str) == [{"a"}, {"b"}, {"c"}, {"d"}]
    assert not capfd.readouterr().err, "a library's bar of progress reached the terminal"


def test_more_clients_than_natural_groups_are_refused(sorted_file: str) -> None:
    data = DataConfig(name=sorted_file, partitioner="natural")
    with pytest.raises(
        ConfigError,
        match=r'data.partitioner = "natural" makes 4 partitions of "group", .* federation.num-clients = 4, or',
    ):
        private_examples(data, 4, 5, 1)


def test_more_clients_than_examples_are_refused(sorted_file: str) -> None:
    with pytest.raises(ConfigError, match=r"has 40 examples for 41 clients"):
        private_examples(DataConfig(name=sorted_file, partitioner="iid"), 0, 41, 1)


def test_a_missing_partition_column_is_refused_with_those_that_exist(sorted_file: str) -> None:
    data = DataConfig(name=sorted_file, group_column="hospital")
    with pytest.raises(ConfigError, match=r'data.group-column = "hospital": .*prompt, completion, group'):
        private_examples(data, 0, 4, 1)


def test_demo_clients_get_the_configured_number_of_examples() -> None:
    assert [len(part) for part in parts(DataConfig(examples_per_client=7), 5)] == [7] * 5


@pytest.mark.parametrize(("rows", "clients"), [(15, 8), (199, 100), (1000, 600), (41, 5), (7, 7)])
@pytest.mark.parametrize("partitioner", ["dirichlet", "iid"])
def test_no_row_is_lost_where_clients_cannot_have_equally_many(
    tmp_path: Path, partitioner: str, rows: int, clients: int
) -> None:
    own = [{"prompt": f"p{number}", "completion": "c", "group": f"g{number % 2}"} for number in range(rows)]
    path = str(write_jsonl(tmp_path / "own.jsonl", own))
    drawn = parts(DataConfig(name=path, partitioner=partitioner), clients)
    assert Counter(prompt for part in drawn for prompt in part["prompt"]) == Counter(row["prompt"] for row in own)
    assert {len(part) for part in drawn} <= {rows // clients, -(-rows // clients)}


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from(["a", "b\0", "10", "9", "größe", " "]), min_size=1, max_size=40), st.integers(1, 40),
    st.sampled_from([0.05, 0.3, 100.0]), st.integers(0, 5),
)  # fmt: skip
def test_whatever_the_groups_every_row_is_placed_or_the_split_is_refused(
    tmp_path_factory: pytest.TempPathFactory, groups: list[str], clients: int, alpha: float, seed: int
) -> None:
    own = [{"prompt": f"p{number}", "completion": "c", "group": group} for number, group in enumerate(groups)]
    path = str(write_jsonl(tmp_path_factory.mktemp("own") / "own.jsonl", own))
    for partitioner, count in (("dirichlet", clients), ("natural", len(set(groups)))):
        data = DataConfig(name=path, partitioner=partitioner, dirichlet_alpha=alpha)
        reason = ""
        try:
            drawn = parts(data, count, seed)
        except ConfigError as refusal:
            reason = str(refusal)
            drawn = []
        if not drawn:
            assert partitioner == "dirichlet"
            assert len(own) < count or "data.dirichlet-alpha" in reason
            continue
        assert sorted(prompt for part in drawn for prompt in part["prompt"]) == sorted(row["prompt"] for row in own)
        assert all(part.column_names == ["prompt", "completion", "group"] for part in drawn)
        assert {group for part in drawn for group in part["group"]} == set(groups)


@pytest.mark.parametrize("partitioner", ["dirichlet", "natural"])
@pytest.mark.parametrize("gap", [{"group": None}, {}])
def test_rows_without_a_group_are_refused_with_their_number(
    tmp_path: Path, partitioner: str, gap: dict[str, None]
) -> None:
    row = {"prompt": "p", "completion": "c"}
    path = str(write_jsonl(tmp_path / "own.jsonl", [row | {"group": "a"}, row | gap, row | {"group": "b"}, row | gap]))
    said = r'data.group-column = "group": 2 of 4 rows of .* have no value there, the first is row 2: .*"iid"'
    with pytest.raises(ConfigError, match=said):
        private_examples(DataConfig(name=path, partitioner=partitioner), 0, 2, 1)


def test_a_column_of_the_name_that_numbers_of_groups_take_is_refused(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{number}", "completion": "c", "group": "a", "__group__": "b"} for number in range(4)]
    path = str(write_jsonl(tmp_path / "own.jsonl", rows))
    with pytest.raises(ConfigError, match='a column is called "__group__", a name that is needed; rename it'):
        private_examples(DataConfig(name=path), 0, 2, 1)


def test_a_concentration_too_small_for_the_groups_is_refused(tmp_path: Path) -> None:
    """One row alone in its group: clients that would have only it find it taken."""
    rows = [{"prompt": f"p{number}", "completion": "c", "group": "big" if number else "tiny"} for number in range(40)]
    data = DataConfig(name=str(write_jsonl(tmp_path / "own.jsonl", rows)), dirichlet_alpha=0.001)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ConfigError, match=r"data.dirichlet-alpha = 0.001: too small for the groups of"):
            private_examples(data, 0, 4, 1)


def test_more_examples_of_the_demo_than_a_machine_holds_are_refused_at_once() -> None:
    with pytest.raises(ConfigError, match=r"data.examples-per-client = 12: 12,000,000,000 of the demo's examples"):
        private_examples(DataConfig(), 0, 10**9, 1)
