"""Who holds which examples."""

import math
from collections import Counter

import pytest

from common.config import ConfigError, DataConfig
from common.data import private_examples
from tests.common.example_rows import ROWS, parts
from tests.false_alarms import statistical


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


def test_natural_clients_hold_one_group_each(sorted_file: str) -> None:
    groups = [set(part["group"]) for part in parts(DataConfig(name=sorted_file, partitioner="natural"), 4)]
    assert sorted(groups, key=str) == [{"a"}, {"b"}, {"c"}, {"d"}]


def test_more_clients_than_natural_groups_are_refused(sorted_file: str) -> None:
    data = DataConfig(name=sorted_file, partitioner="natural")
    with pytest.raises(ConfigError, match=r'data.partitioner = "natural" makes 4 partitions of "group", but .* 5'):
        private_examples(data, 4, 5, 1)


def test_more_clients_than_examples_are_refused(sorted_file: str) -> None:
    with pytest.raises(ConfigError, match=r"has 40 examples for 41 clients"):
        private_examples(DataConfig(name=sorted_file, partitioner="iid"), 0, 41, 1)


def test_a_missing_partition_column_is_refused_with_those_that_exist(sorted_file: str) -> None:
    data = DataConfig(name=sorted_file, partition_by="hospital")
    with pytest.raises(ConfigError, match=r'data.partition-by = "hospital": .*prompt, completion, group'):
        private_examples(data, 0, 4, 1)


def test_demo_clients_get_the_configured_number_of_examples() -> None:
    assert [len(part) for part in parts(DataConfig(examples_per_client=7), 5)] == [7] * 5
