"""Cohorts and noise that can be drawn again, so that a row of an experiment can: no run of the app has them."""

from dataclasses import dataclass

from client_app.answer import NoiseSource
from common import seeds
from common.privacy.noise import RandomSource
from server_app.privacy.randomness import Randomness


@dataclass(frozen=True)
class SeededRandomness(Randomness):
    """INSECURE: who knows the two seeds knows every cohort, and can take the noise away. No ε holds for such a run."""

    noise_seed: int
    cohort_seed: int

    def coins(self, draw: int) -> RandomSource:
        """Those of a run without privacy with this seed."""
        return RandomSource.insecure(seeds.insecure_cohort(self.cohort_seed, draw))

    def noise(self, round_index: int) -> RandomSource:
        """One source a round."""
        return RandomSource.insecure(seeds.insecure_server_noise(self.noise_seed, round_index))


def seeded_clients(noise_seed: int) -> NoiseSource:
    """INSECURE: what clients round to the grid and noise with, by client and round; for ``make_app``."""
    return lambda site, round_index: RandomSource.insecure((noise_seed << 32) ^ site.seed(round_index))
