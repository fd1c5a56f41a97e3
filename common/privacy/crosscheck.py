"""An independent second opinion on ε: Microsoft's PRV accountant, kept in a process of its own.

Depending on its arguments it may loop without end, fail, or ask for any amount of memory,
so it runs as a subprocess with a deadline and a memory limit. A failure is reported as such, never as a
number. Source: Gopi, Lee, Wutschitz 2021 (arXiv:2106.02848). The file is its own worker: it imports nothing
of this package.
"""

import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

Event = tuple[float, float, int]
"""Noise multiplier, sampling rate, number of compositions."""


class CrossCheckUnavailable(RuntimeError):
    """The PRV accountant gave no usable answer; the text says why."""


def prv_bounds(
    events: Sequence[Event], delta: float, *, epsilon_error: float, timeout: float, memory_gib: float
) -> tuple[float, float]:
    """Lower and upper bound on ε of ``events`` at ``delta``, or ``CrossCheckUnavailable``.

    ``epsilon_error``: half the width of the bracket. ``timeout``: seconds. ``memory_gib``: address space of
    the worker.
    """
    request = json.dumps([list(events), delta, epsilon_error, memory_gib])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-W", "ignore", str(Path(__file__).resolve()), request]
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and file
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CrossCheckUnavailable(
            "the PRV accountant did not end in its time"
        ) from None  # no figure: it is published
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise CrossCheckUnavailable(f"the PRV accountant failed: {reason[:200]}")
    lower, estimate, upper = json.loads(done.stdout.strip().splitlines()[-1])
    if not (math.isfinite(upper) and lower <= estimate <= upper):
        raise CrossCheckUnavailable(f"the PRV accountant returned no bracket: {lower}, {estimate}, {upper}")
    return max(0.0, float(lower)), float(upper)


def _worker(request: str) -> None:
    """Print the three figures of the PRV accountant for a request as JSON; ends in an exception otherwise."""
    import resource  # noqa: PLC0415 - only the worker needs it

    from prv_accountant import PRVAccountant  # noqa: PLC0415
    from prv_accountant.privacy_random_variables import (  # noqa: PLC0415
        GaussianMechanism,
        PoissonSubsampledGaussianMechanism,
    )

    events, delta, epsilon_error, memory_gib = json.loads(request)
    limit = int(memory_gib * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    variables = [
        GaussianMechanism(sigma) if rate == 1 else PoissonSubsampledGaussianMechanism(rate, sigma)
        for sigma, rate, _ in events
    ]
    counts = [int(count) for *_, count in events]
    accountant = PRVAccountant(
        prvs=variables, max_self_compositions=counts, eps_error=epsilon_error, delta_error=delta / 1000
    )
    print(json.dumps([float(value) for value in accountant.compute_epsilon(delta, counts)]))


if __name__ == "__main__":
    _worker(sys.argv[1])
