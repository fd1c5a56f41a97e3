"""Poisson sampling of clients from a secret key, and how large a cohort can become.

Amplification by sampling holds only against those who cannot tell who was selected. Cohorts are therefore
derived from a 32-byte secret key of the run: a resumed run redraws the same cohorts, nobody else can, and the
key is deleted when the run ends. Source: Balle, Barthe, Gaboardi 2018 (arXiv:1807.01647) for amplification.
"""

import hashlib
import os
from collections.abc import Sequence

from scipy.stats import binom

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


def binomial_limit(trials: int, rate: float, repeats: int, delta: float) -> int:
    """Smallest H that none of ``repeats`` draws of Bin(trials, rate) exceeds, but with probability ``delta``.

    Two uses. The largest cohort that a run of ``repeats`` rounds must be ready for (trials = clients): a *public*
    number of noise shares, since the realised cohort would tell a client coalition whether another client was selected.
    And the most rounds that any of ``repeats`` clients is asked in (trials = rounds).
    """
    _check_rate(rate)
    if trials < 0 or repeats < 0 or not 0 < delta < 1:
        raise ValueError(f"need trials >= 0, repeats >= 0, 0 < delta < 1, not {trials}, {repeats}, {delta}")
    if rate in {0.0, 1.0} or repeats == 0:
        return trials if rate == 1.0 else 0
    limit = max(0, int(binom.isf(delta / repeats, trials, rate)) - 1)
    while repeats * float(binom.sf(limit, trials, rate)) > delta:
        limit += 1
    return limit


def _uniform(client: int, key: bytes, round_index: int) -> int:
    message = round_index.to_bytes(8, "big") + client.to_bytes(16, "big", signed=True)
    return int.from_bytes(hashlib.blake2b(message, digest_size=8, key=key, person=b"poisson-sample").digest(), "big")


def _check_rate(rate: float) -> None:
    if not 0 <= rate <= 1:
        raise ValueError(f"the sampling rate must lie in 0..1, not {rate}")
