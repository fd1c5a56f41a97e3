"""The mechanism as the paper prints it (Eq 1-7), and what it really gives: for reproduction, not for protection.

Each client clips A and B of every layer to C one by one (Eq 1-2) and adds N(0, 4σ²/K²) to every value (Eq 3-4),
whatever C is; the server takes the mean of the N messages that came (Eq 5); ε is read off the central limit of Gaussian
DP (Eq 7) as if each round were a Gaussian mechanism of noise multiplier σ.

What it gives: with T tensors the code of one client can have a norm of C·√T, so one message is a Gaussian mechanism of
multiplier 2σ/(K·C·√T), and the mean of K of them one of multiplier 2σ/(√K·C·√T), if all other clients add their noise.
The noise of the mean grows with the cohort, so sampling amplifies nothing (``common.privacy.mechanism``). Eq (5) is
also printed as a mean of products ÃB̃; a decoder of A's and B's codes cannot read those, so the pairs are averaged.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from common.privacy.clipping import clip
from common.privacy.gaussian import gaussian_epsilon, gaussian_mu, gdp_clt_mu
from common.privacy.mechanism import ReleaseTerms, release
from common.privacy.noise import RandomSource


@dataclass(frozen=True)
class PrintedMechanism:
    """One run of the printed mechanism.

    Attributes:
        sigma: the paper's noise multiplier σ.
        cohort: K = p·M, the expected number of selected clients.
        tensors: T, the LoRA factors that are clipped one by one.
        clip_norm: C, the bound on each of them.

    """

    sigma: float
    cohort: float
    tensors: int
    clip_norm: float

    @property
    def joint_bound(self) -> float:
        """C·√T, what Eq (1)-(2) leave of one client's whole code."""
        return self.clip_norm * math.sqrt(self.tensors)

    @property
    def message_multiplier(self) -> float:
        """Noise of one message relative to ``joint_bound``: 2σ/(K·C·√T), Eq (3)-(4)."""
        return 2 * self.sigma / (self.cohort * self.joint_bound)

    @property
    def mean_multiplier(self) -> float:
        """Noise of the mean of K messages relative to one client's share of it: 2σ/(√K·C·√T)."""
        return self.message_multiplier * math.sqrt(self.cohort)

    def claimed_epsilon(self, sampling_rate: float, rounds: int, delta: float) -> float:
        """The ε that the paper states for these rounds: Eq (7), converted exactly."""
        return gaussian_epsilon(gdp_clt_mu(self.sigma, sampling_rate, rounds), delta)


def clip_parts(vector: Tensor, sizes: Sequence[int], bound: float) -> Tensor:
    """Clip every part of a flat vector (shape ``[sum of sizes]``) to an ℓ2 norm of at most ``bound``: Eq (1)-(2).

    What comes out has a norm of up to ``bound·√len(sizes)``. Raises as ``clip`` does.
    """
    return torch.cat([clip(part, bound).values for part in vector.split(list(sizes))])


def printed_message(code: Tensor, sizes: Sequence[int], printed: PrintedMechanism, source: RandomSource) -> np.ndarray:
    """One client's message of a code (shape ``[k]``) of parts of ``sizes``, Eq (1)-(4), through the app's own release.

    The release is told the bound and the noise multiplier that the printed ones amount to.
    """
    bound, noise = printed.joint_bound, printed.message_multiplier
    terms = ReleaseTerms(code.numel(), bound, noise, "local", 0, normalize=False)
    return release(clip_parts(code, sizes, printed.clip_norm), terms, source) * terms.grid_step


def printed_sigma(epsilon: float, delta: float, sampling_rate: float, rounds: int) -> float:
    """The σ to which Eq (7) assigns ``epsilon`` at ``delta`` after ``rounds``: its inverse, in closed form."""
    mu = gaussian_mu(epsilon, delta)
    return 1 / math.sqrt(math.log1p(mu**2 / (sampling_rate**2 * rounds)))


def composed_epsilon(multiplier: float, rounds: int, delta: float) -> float:
    """ε of ``rounds`` Gaussian mechanisms of noise ``multiplier``, exact; nothing is amplified."""
    return gaussian_epsilon(math.sqrt(rounds) / multiplier, delta)
