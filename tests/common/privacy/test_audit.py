"""An empirical audit of the shipped mechanism, and of mutants of it that it must tell apart.

A false alarm takes a lower bound above the true μ = 1: by its confidence in at most 1e-3 of fresh seeds, by the exact
law of both counts in 1.5e-6 (``audit_outside``). Every mutant's true μ is at least 2, its bound above 1.6.
"""

import math

import numpy as np
import pytest
import torch

from client_app.release import release_gradient
from common.adapter import Layout
from common.codecs.identity import IdentityCodec
from common.privacy.mechanism import ReleaseTerms, Trust, combine
from common.privacy.noise import RandomSource
from tests.support.audit import mu_lower_bound, projection
from tests.support.false_alarms import audit_outside, statistical
from tests.support.mutants import MUTANTS, TENSORS

SIZE, CLIP, Z = 16, 0.5, 1.0
CODE = torch.linspace(1, 2, SIZE) * 40
CODEC = IdentityCodec(Layout.of({str(place): (SIZE // TENSORS,) for place in range(TENSORS)}))


def audit(trust: Trust, shares: int, others: int = 0) -> float:
    """The shipped path, client and server: encode, clip, noise, sum, top up; ``others`` have the zero code."""
    terms = ReleaseTerms(SIZE, CLIP, Z, trust, shares, normalize=False)
    source, direction = RandomSource.insecure(21), CODE.numpy()

    def run(with_client: bool) -> float:
        codes = [CODE if with_client else 0 * CODE] + [0 * CODE] * others
        total = combine([release_gradient(code, CODEC, terms, source) for code in codes], terms, source)
        return projection(total.numpy(), direction)

    means = [np.mean([run(present) for _ in range(50)]) for present in (True, False)]
    return mu_lower_bound(run, float(sum(means)) / 2)


@pytest.mark.parametrize(("trust", "shares", "others"), [("local", 1, 0), ("distributed", 3, 1), ("central", 1, 0)])
@statistical(audit_outside(1 / Z, 0.7, 1), "seeded")
def test_the_audit_is_silent_on_the_shipped_mechanism_and_close_to_its_claim(
    trust: Trust, shares: int, others: int
) -> None:
    assert 0.7 / Z < audit(trust, shares, others) <= 1 / Z


@pytest.mark.parametrize("name", MUTANTS)
@statistical(audit_outside(2, 1.6, math.inf), "seeded")
def test_the_audit_flags_the_mutant(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant = MUTANTS[name]
    mutant.install(monkeypatch)
    assert audit(mutant.trust, mutant.shares) > 1.6 / Z
