"""Poisson sampling of clients from a secret key, and the price of discarding rounds with too small a cohort.

Amplification by sampling holds only against those who cannot tell who was selected. Cohorts are therefore
derived from a 32-byte secret key of the run: a resumed run redraws the same cohorts, nobody else can, and the
key is deleted when the run ends. Source: Balle, Barthe, Gaboardi 2018 (arXiv:1807.01647) for amplification.
"""

import hashlib
import math
import os
from collections.abc import Sequence

KEY_BYTES = 32


def new_sampling_key() -> bytes:
    """Draw 32 secret bytes; keep them with the checkpoint and delete them at the end of the run."""
    return os.urandom(KEY_BYTES)


def key_from_seed(seed: int) -> bytes:
    """Make an insecure key for tests and runs without privacy: who knows ``seed`` knows every cohort."""
    return hashlib.blake2b(str(seed).encode(), digest_size=KEY_BYTES, person=b"insecure-seed").digest()


def poisson_sample(ids: Sequence[int], rate: float, key: bytes, round_index: int) -> list[int]:
    """Select ids for round ``round_index``: each with probability ``rate``, independently, order kept.

    A client is selected iff a keyed BLAKE2b of (round, id), read as a 64-bit number, lies below
    ``rate·2^64``; whether one is selected therefore depends neither on the others nor on their order. The
    cohort may be empty. Raises ``ValueError`` for a rate outside 0..1, a key that is not 32 bytes long, or
    duplicate ids.
    """
    _check_rate(rate)
    if len(key) != KEY_BYTES:
        raise ValueError(f"the sampling key must be {KEY_BYTES} bytes long, not {len(key)}")
    if len(set(ids)) != len(ids):
        raise ValueError("client ids must be distinct: a client listed twice would be sampled twice")
    threshold = int(rate * 2**64)
    return [client for client in ids if _uniform(client, key, round_index) < threshold]


def cohort_slack(clients: int, rate: float, minimum: int, rounds: int) -> float:
    """Additive δ of discarding every round in which fewer than ``minimum`` of ``clients`` were selected.

    With H = ``minimum``, one client's coin changes the server's decision only if exactly H−1 *others* were
    selected. Had the server discarded in that event too, discarding would not depend on the client and the
    amplified bound would hold; the two servers differ with probability β = p·P(Bin(M−1, p) = H−1) per round.
    In both orders of the neighbours the event's mass enters once, without a factor e^ε, so T rounds cost T·β.
    No cost at H = 0, nor at p = 1, where nothing is secret. The decision must rest on who was *selected*, not
    on who replied.
    """
    _check_rate(rate)
    if clients < 1 or minimum < 0 or rounds < 0:
        raise ValueError(f"need clients ≥ 1, minimum ≥ 0, rounds ≥ 0, not {clients}, {minimum}, {rounds}")
    if minimum == 0 or rate in {0.0, 1.0} or minimum > clients:
        return 0.0
    others, count = clients - 1, minimum - 1
    log_choose = math.lgamma(others + 1) - math.lgamma(count + 1) - math.lgamma(others - count + 1)
    log_mass = log_choose + count * math.log(rate) + (others - count) * math.log1p(-rate)
    return min(1.0, rounds * rate * math.exp(log_mass) * (1 + 1e-6))


def default_minimum(clients: int, rate: float, rounds: int, delta: float) -> int:
    """Choose the largest H ≤ ⌊rate·clients/2⌋ whose ``cohort_slack`` is at most ``delta/1000``; 0 if none."""
    for minimum in range(math.floor(rate * clients / 2), 0, -1):
        if cohort_slack(clients, rate, minimum, rounds) <= 1e-3 * delta:
            return minimum
    return 0


def _uniform(client: int, key: bytes, round_index: int) -> int:
    message = round_index.to_bytes(8, "big") + client.to_bytes(16, "big", signed=True)
    return int.from_bytes(hashlib.blake2b(message, digest_size=8, key=key, person=b"poisson-sample").digest(), "big")


def _check_rate(rate: float) -> None:
    if not 0 <= rate <= 1:
        raise ValueError(f"the sampling rate must lie in 0..1, not {rate}")
