"""An empirical audit of the shipped mechanism, and of six mutants of it that it must tell apart.

Each bound exceeds the true μ with probability at most .001: the two silent cases raise a false alarm in .2 % of
fresh seeds (these are fixed). Every mutant's true μ is at least twice the claim, its bound above 1.7 times it.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from client_app.release import release_gradient
from common.adapter import Layout
from common.codecs.identity import IdentityCodec
from common.privacy.clipping import clip
from common.privacy.mechanism import ReleaseTerms, combine, release
from common.privacy.noise import RandomSource
from tests.common.privacy.audit import mu_lower_bound, projection

SIZE, CLIP, Z = 16, 0.5, 1.0
CODE = torch.linspace(1, 2, SIZE) * 40
TENSORS = 4
CODEC = IdentityCodec(Layout.of({str(place): (SIZE // TENSORS,) for place in range(TENSORS)}))

Step = Callable[[torch.Tensor, RandomSource], np.ndarray]


def local_terms(z: float = Z, bound: float = CLIP) -> ReleaseTerms:
    return ReleaseTerms(SIZE, bound, z, "local", 1, False)


def shipped(code: torch.Tensor, source: RandomSource) -> np.ndarray:
    """The client's own path: encode, clip, noise."""
    one = local_terms()
    return release_gradient(code, CODEC, one, source) * one.grid_step


def shipped_sum(code: torch.Tensor, source: RandomSource) -> np.ndarray:
    one = ReleaseTerms(SIZE, CLIP, Z, "distributed", 3, False)
    return combine([release_gradient(part, CODEC, one, source) for part in (code, 0 * code)], one, source).numpy()


def noise_of(std: float, source: RandomSource) -> np.ndarray:
    one = local_terms(std / CLIP)
    return release(torch.zeros(SIZE), one, source) * one.grid_step


def noise_too_small(factor: float) -> Step:
    def step(code: torch.Tensor, source: RandomSource) -> np.ndarray:
        one = local_terms(Z / factor)
        return release(code, one, source) * one.grid_step

    return step


def clip_too_large(code: torch.Tensor, source: RandomSource) -> np.ndarray:
    one = local_terms(Z / 5, 5 * CLIP)
    return release(code, one, source) * one.grid_step


def noise_before_clip(code: torch.Tensor, source: RandomSource) -> np.ndarray:
    return clip(code + torch.from_numpy(noise_of(Z * CLIP, source)), CLIP).values.numpy()


def per_tensor_clip(code: torch.Tensor, source: RandomSource) -> np.ndarray:
    pieces = code.numpy().reshape(TENSORS, -1)
    scale = CLIP / np.maximum(np.linalg.norm(pieces, axis=1, keepdims=True), CLIP)
    return (pieces * scale).ravel() + noise_of(Z * CLIP, source)


def no_top_up(code: torch.Tensor, source: RandomSource) -> np.ndarray:
    one = ReleaseTerms(SIZE, CLIP, Z, "distributed", 4, False)
    return release(code, one, source) * one.grid_step


def audit(step: Step) -> float:
    source = RandomSource.insecure(21)
    direction = CODE.numpy()
    present = np.mean([projection(step(CODE, source), direction) for _ in range(50)])
    absent = np.mean([projection(step(0 * CODE, source), direction) for _ in range(50)])

    def run(with_client: bool) -> float:
        return projection(step(CODE if with_client else 0 * CODE, source), direction)

    return mu_lower_bound(run, float(present + absent) / 2)


@pytest.mark.parametrize("step", [shipped, shipped_sum])
def test_the_audit_is_silent_on_the_shipped_mechanism_and_close_to_its_claim(step: Step) -> None:
    assert 0.75 / Z < audit(step) <= 1 / Z


@pytest.mark.parametrize(
    "mutant",
    [
        noise_too_small(2),
        noise_too_small(10),
        clip_too_large,
        noise_before_clip,
        per_tensor_clip,
        no_top_up,
    ],
    ids=["std/2", "std/10", "clip*5", "noise-before-clip", "per-tensor-clip", "no-top-up"],
)
def test_the_audit_flags_the_mutant(mutant: Step) -> None:
    assert audit(mutant) > 1.7 / Z
