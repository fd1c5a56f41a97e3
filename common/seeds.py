"""The one place where seeds are mixed: every draw that ``seed`` decides gets a seed of its own here.

What is secret is not drawn from any of these. Privacy noise and the cohorts of a private run come from the operating
system; the functions whose names begin with ``insecure`` are for experiments, tests and runs without privacy.
"""

import hashlib

_LIMIT = 2**63  # what every generator takes as a seed lies below
_NEXT = 1_000_003  # a prime: from one seed to the next, with room for as many rounds or clients between
_CLIENT, _ROUND = 0x9E3779B97F4A7C15, 0xD1B54A32D192ED03  # odd, so that neighbors differ in many of 63 bits
_SPLIT, _HELD_OUT = -1, -(2**32)  # in place of a round


def of_client(seed: int, partition: int, server_round: int) -> int:
    """Of a client's batches and dropout in a round.

    >>> of_client(1, 0, 1), of_client(1, 1, 1), of_client(1, 0, 2)
    (2988822169993728130, 5166164952462150807, 8876515839975406981)
    """
    return ((seed * _NEXT + partition) * _CLIENT + server_round * _ROUND) % _LIMIT


def of_split(seed: int, partition: int) -> int:
    """Of the parts into which a client's rows fall for stage 1 and for the rounds."""
    return of_client(seed, partition, _SPLIT)


def of_held_out(seed: int, partition: int) -> int:
    """Of which of a client's rows are held out for private evaluation."""
    return of_client(seed, partition, _HELD_OUT)


def of_round(seed: int, server_round: int) -> int:
    """Of what the server draws anew in a round: random rounding.

    >>> of_round(1, 2), of_round(2, 0)
    (1000005, 2000006)
    """
    return (seed * _NEXT + server_round) % _LIMIT


def insecure_server_noise(insecure_seed: int, server_round: int) -> int:
    """Of the server's own noise in an experiment that must be repeatable.

    >>> insecure_server_noise(0, 3), insecure_server_noise(1, 0) == 2**32 + 1
    (7, True)
    """
    return ((insecure_seed << 32) ^ (server_round << 1) ^ 1) % 2**64  # private evaluations have rounds below 0


def insecure_cohort(seed: int, draw: int) -> int:
    """Of draw number ``draw`` of a cohort without privacy: who knows ``seed`` knows every cohort."""
    digest = hashlib.blake2b(f"{seed}/{draw}".encode(), digest_size=16, person=b"insecure-cohort").digest()
    return int.from_bytes(digest, "big")
