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
from dataclasses import dataclass

from common.privacy.gaussian import gaussian_epsilon, gaussian_mu, gdp_clt_mu


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


def printed_sigma(epsilon: float, delta: float, sampling_rate: float, rounds: int) -> float:
    """The σ to which Eq (7) assigns ``epsilon`` at ``delta`` after ``rounds``: its inverse, in closed form."""
    mu = gaussian_mu(epsilon, delta)
    return 1 / math.sqrt(math.log1p(mu**2 / (sampling_rate**2 * rounds)))


def composed_epsilon(multiplier: float, rounds: int, delta: float) -> float:
    """ε of ``rounds`` Gaussian mechanisms of noise ``multiplier``, exact; nothing is amplified."""
    return gaussian_epsilon(math.sqrt(rounds) / multiplier, delta)
