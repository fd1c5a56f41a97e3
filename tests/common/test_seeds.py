"""Seeds are mixed as they always were: a run of a seed is the same run in every version."""

from itertools import product

from common import seeds
from common.config.fields import LARGEST_SEED


def test_a_clients_seed_is_that_of_the_runs_on_record() -> None:
    """The formula written out, and that no two of a run's clients and rounds share one."""
    for seed, partition, number in ((1, 0, 1), (7, 5, 40), (LARGEST_SEED, 999, 10_000), (3, 2, -1)):
        mixed = (seed * 1_000_003 + partition) * 0x9E3779B97F4A7C15 + number * 0xD1B54A32D192ED03
        assert seeds.of_client(seed, partition, number) == mixed % 2**63
    assert seeds.of_split(3, 2) == seeds.of_client(3, 2, -1)
    every = [seeds.of_client(*mixed) for mixed in product(range(5), range(40), range(-1, 60))]
    assert len(set(every)) == len(every)


def test_the_servers_seeds_are_those_of_the_runs_on_record() -> None:
    assert seeds.of_round(LARGEST_SEED, 9) == LARGEST_SEED * 1_000_003 + 9 < 2**63
    assert [seeds.insecure_server_noise(7, number) - 7 * 2**32 for number in range(3)] == [1, 3, 5]
    assert min(seeds.insecure_server_noise(7, -number) for number in range(2, 40)) > 0
    assert seeds.insecure_cohort(4, 1) == 0x5F4B0F0325EFA75320790709FB03633C  # blake2b of "4/1"
