"""Where a run's secret draws come from. No key and no argument of a run chooses another source."""

from common.privacy.noise import RandomSource


class Randomness:
    """The operating system's, for cohorts and for the server's noise; experiments put a seeded one into a strategy."""

    def coins(self, draw: int) -> RandomSource:
        """Of cohort number ``draw``; 0 is stage 1's."""
        return RandomSource.system()

    def noise(self, round_index: int) -> RandomSource:
        """Of the server's own noise in a round."""
        return RandomSource.system()


SYSTEM = Randomness()
