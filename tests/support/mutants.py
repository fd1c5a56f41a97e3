"""Mutants of the private release: the shipped functions with one of their pieces replaced, for the audit to find.

Each is installed with ``monkeypatch`` in the modules that ``client_app.release.release_gradient`` and
``common.privacy.mechanism.combine`` go through. The types resist most of them: a clip that is too large does not pass
``quantize``, so a mutant that shall leak has to break both.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from common.privacy import mechanism, noise
from common.privacy.clipping import Clipped, clip
from common.privacy.mechanism import ReleaseTerms, Trust
from common.privacy.noise import GridVector, Integers, RandomSource

TENSORS = 4
"""Parts of the audited code, for the clip that the paper prints."""


@dataclass(frozen=True)
class Mutant:
    """How to break the mechanism, and the terms under which it is audited.

    At noise multiplier 1 the μ that is left (1 is promised) is 2 or more.
    """

    install: Callable[[pytest.MonkeyPatch], None]
    trust: Trust = "local"
    shares: int = 1


def less_noise(factor: float) -> Callable[[pytest.MonkeyPatch], None]:
    """The client's noise has a std that is too small."""

    def install(patch: pytest.MonkeyPatch) -> None:
        original = noise.add_noise
        patch.setattr(noise, "add_noise", lambda vector, std, source: original(vector, std / factor, source))

    return install


def clip_too_large(patch: pytest.MonkeyPatch) -> None:
    """Five times the bound passes the clip and the grid; the noise is that of the bound."""
    patch.setattr(mechanism, "clip", lambda code, bound, normalize: clip(code, 5 * bound, normalize=normalize))
    _finer_grid(patch, 5)


def noise_before_clip(patch: pytest.MonkeyPatch) -> None:
    """What is clipped is already noised, so that the clip shrinks the noise along with the code."""
    source = RandomSource.insecure(22)

    def noised(code: Tensor, bound: float, *, normalize: bool) -> Clipped:
        steps = noise.discrete_gaussian(code.numel(), 1000.0, source)
        return clip(code + torch.from_numpy(steps) * (bound / 1000), bound, normalize=normalize)

    def bare(vector: GridVector, _: float, __: RandomSource) -> Integers:
        return vector.values

    patch.setattr(mechanism, "clip", noised)
    patch.setattr(noise, "add_noise", bare)


def per_tensor_clip(patch: pytest.MonkeyPatch) -> None:
    """Eq (1)-(2) as printed, with noise for one tensor: √``TENSORS`` times the bound passes."""
    joint = TENSORS**0.5

    def by_parts(code: Tensor, bound: float, *, normalize: bool) -> Clipped:
        parts = code.split(code.numel() // TENSORS)
        return Clipped(torch.cat([clip(part, bound).values for part in parts]), bound * joint)

    patch.setattr(mechanism, "clip", by_parts)
    _finer_grid(patch, joint)


def no_top_up(patch: pytest.MonkeyPatch) -> None:
    """The server does not add the shares of the clients that are missing."""
    patch.setattr(ReleaseTerms, "server_grid_std", lambda *_: 0.0)


def _finer_grid(patch: pytest.MonkeyPatch, factor: float) -> None:
    """``factor`` times the bound is ``factor`` times as many steps, as for a vector within it."""
    original = noise.quantize

    def quantize(values: Any, bound: float, resolution: int, source: RandomSource) -> GridVector:
        return original(values, bound, int(factor * resolution), source)

    patch.setattr(noise, "quantize", quantize)


MUTANTS: dict[str, Mutant] = {
    "std/2": Mutant(less_noise(2)),
    "std/10": Mutant(less_noise(10)),
    "clip*5": Mutant(clip_too_large),
    "noise-before-clip": Mutant(noise_before_clip),
    "per-tensor-clip": Mutant(per_tensor_clip),
    "no-top-up": Mutant(no_top_up, "distributed", 4),
}
