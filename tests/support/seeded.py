"""Noise and cohorts that are the same in every run of a test. Nothing but a patch of the code can ask for them."""

import pytest

from benchmarks.seeded import SeededRandomness, seeded_clients
from client_app.site import Site
from server_app.privacy.randomness import Randomness


def seed_randomness(patch: pytest.MonkeyPatch, noise: int = 7, cohorts: int = 1) -> None:
    """Let clients and servers of this process draw from public seeds, by client and round."""
    seeded = SeededRandomness(noise, cohorts)
    patch.setattr(Randomness, "coins", lambda _, draw: seeded.coins(draw))
    patch.setattr(Randomness, "noise", lambda _, round_index: seeded.noise(round_index))
    patch.setattr(Site, "noise_source", seeded_clients(noise))
