"""The private release: clip → integer grid → noise on the client, sum → top-up noise on the server.

``release`` is the only way from a code to the wire, ``combine`` the only way from the wire to an aggregate.

Formal guarantees (zero-out adjacency: one client's code is replaced by zero; C = clip norm, z = noise
multiplier)

====================  ===================================  ============================================
trust                 who sees only the sums (outsider)    the server, which sees one message
====================  ===================================  ============================================
``central``           Gaussian z, amplified by sampling    none: trusted
``distributed``       Gaussian z, amplified by sampling    Gaussian z/√shares; better only if the
                                                           messages are hidden by secure aggregation
``local``             Gaussian z, *not* amplified          Gaussian z, not amplified
``secure``            Gaussian z, amplified by sampling    the same: it sees the sum only
====================  ===================================  ============================================

*From discrete to continuous.* Every total of variance ``z²B² + 4`` (grid steps, B = ``resolution``) is a
post-processing of continuous noise of std z·B (``noise.smoothing_error``), so the Gaussian's accounting
applies as it stands.

*Why the noise must not depend on the cohort.* Let S be the Poisson cohort and fix everyone but client i. If
the sum always carries the same noise N(0, z²C²), the release is (1−p)·N(s, z²C²) + p·N(s+x, z²C²), ‖x‖ ≤ C,
against N(s, z²C²): the sampled Gaussian mechanism that is charged. If instead each of |S| clients adds noise
and nobody tops it up, the second component has the wider variance (|S|+1)v. Over ``size`` coordinates the
variance alone tells whether i was selected (log-likelihood ratio about size/4|S|²), the components stop
sharing N(s, z²C²), and no amplification is left. So ``distributed`` tops up the missing shares to exactly
z²C², for the empty cohort too, and its grid, visible in the aggregate as a lattice, depends on public terms
only, never on ``shares``.

*Secure.* Messages are masked, so the server sees their sum alone (``common.secure``), and whose code is in it only each
client's own coin knows. Every client adds a share, whatever its coin says, so the noise is the same with and without
the code of client i, and the sum is the sampled Gaussian mechanism against the server too. Shares are cut so that
those of honest clients who are there suffice; nobody tops up, since the server's own noise would be none against it.
Where some are missing, the others release the same code once more, with noise of its own: two rows of ``release``.

*Local.* Variance grows with the cohort by design, hence no amplification for anybody. Given who was selected,
which is independent of the data, client i's contribution is covered by its own noise: z is valid whatever the
others do. If the other responders are trusted to add theirs, z·√K′ holds for the sum of K′ releases
(``price.outsider_charge``). To have amplification as well, the server would have to top up to a fixed total of
N·z²C² with N ≥ every cohort.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.privacy import noise
from common.privacy.clipping import check_bound, clip
from common.privacy.noise import RandomSource
from common.privacy.norms import noisy_norm_limit, norm

Trust = Literal["central", "distributed", "local", "secure"]
WireArray = NDArray[Any]

MAX_SHARES = 2**20

MOST_SMOOTHING = 2.0**-22
"""Variance that pays for the discretisation, over z²B², at most: 4 against at least (4·√``MAX_SHARES``)²."""

FALSE_ALARM = 2.0**-96
"""Bound on the probability that an honest message is refused by its norm: what then happens is not what is charged.

``price.noise_slack`` pays for it. A filter alone would do with 2^-64, but that would cost all of δ in a large
federation; the limit moves by little, from 7.9 to 8.5 clip norms for 256 values at z = 1.64 and 25 shares.
"""

MOST_LEGS = 2
"""Releases of one client in one round of ``secure``: the second only where others are missing."""

SMOOTHING_STD = 2.0
"""Grid steps: the part of every sum's noise that turns the discrete into a continuous one, charged to nobody."""
_FINEST_SHARE_STD = 4.0
_STEPS_PER_STD = 64.0
_SMALLEST_RESOLUTION = 256.0


@dataclass(frozen=True)
class ReleaseTerms:
    """What server and client agree on for one release; a ``ValueError`` names what is out of range.

    ``size``: values per code. ``clip_norm``: C, code units. ``noise_multiplier``: z, in units of C; 0 sends
    float32 without noise. ``shares``: noise shares, each of std z·C/√shares in ``distributed`` and ``secure``: in
    ``secure`` one for each enrolled client; in ``distributed`` a *public* number
    that no cohort exceeds (``sampling.binomial_limit``), since the realized cohort would betray who was selected
    to a coalition of clients; the server adds the shares that nobody brought. ``normalize``: scale every non-zero
    code to norm C instead of only clipping it.
    """

    size: int
    clip_norm: float
    noise_multiplier: float
    trust: Trust
    shares: int
    normalize: bool

    def __post_init__(self) -> None:
        check_bound(self.clip_norm)
        if self.size < 1:
            raise ValueError(f"size must be at least 1, not {self.size}")
        if not (math.isfinite(self.noise_multiplier) and self.noise_multiplier >= 0):
            raise ValueError(f"noise multiplier must be finite and not negative, not {self.noise_multiplier}")
        if self.trust not in {"central", "distributed", "local", "secure"}:
            raise ValueError(f"trust must be central, distributed, local or secure, not {self.trust!r}")
        if not 0 <= self.shares <= MAX_SHARES:
            raise ValueError(f"shares must lie in 0..{MAX_SHARES}, not {self.shares}")
        if self.noise_multiplier and not 1e-4 <= self.noise_multiplier <= 1e6:
            raise ValueError(f"noise multiplier must be 0 or lie in 1e-4..1e6, not {self.noise_multiplier}")
        if self.noise_multiplier and self.largest_value > np.iinfo(np.int32).max:
            raise ValueError(f"size {self.size} with noise multiplier {self.noise_multiplier} needs more than 32 bits")

    @property
    def client_std(self) -> float:
        """Std of one client's noise, code units: 0, z·C/√shares or z·C (the grid adds at most .05 %)."""
        if self.trust == "central":
            return 0.0
        share = self.noise_multiplier * self.clip_norm
        return share / math.sqrt(self.parts)

    @property
    def is_shared(self) -> bool:
        """Whether each client adds a part of the noise only."""
        return self.trust in {"distributed", "secure"}

    @property
    def parts(self) -> int:
        """Into how many shares the noise is cut that clients add: 1 where each one adds all of it."""
        return max(1, self.shares) if self.is_shared else 1

    def noise_of_shares(self, count: int) -> float:
        """Noise multiplier of what carries ``count`` shares and no other noise, as the Gaussian mechanism it contains.

        A hair less than z·√(count/shares): the variance that pays for the discretisation is taken off once.
        """
        if not self.noise_multiplier or self.trust == "central":
            return 0.0
        return math.sqrt(max(0.0, count * self.client_grid_std**2 - SMOOTHING_STD**2)) / self.resolution

    @property
    def message_noise_multiplier(self) -> float:
        """Noise multiplier of one message on its own, against who reads it: 0, z/√shares or z.

        In ``distributed`` it is a hair less than z/√shares (1e-6 relative at 10 shares): the variance that
        pays for the discretisation is only present once in the sum, not once in every message.
        """
        return self.noise_of_shares(1)

    @cached_property
    def resolution(self) -> int:
        """B, the clip norm in grid steps: a power of two made from public terms only, not from ``shares``.

        At least 8√size, so that rounding (at most size/4 in the squared norm) shrinks a code by less than .4
        %; at least 64/z, so that rounding adds less than 1e-4 to the noise variance; where noise is shared at
        least 4096/z, so that even a million shares keep a std of 4 steps, where their sum is a discrete
        Gaussian.
        """
        steps = _FINEST_SHARE_STD * math.sqrt(MAX_SHARES) if self.is_shared else _STEPS_PER_STD
        needed = max(_SMALLEST_RESOLUTION, 8 * math.sqrt(self.size), steps / (self.noise_multiplier or math.inf))
        return 1 << (math.ceil(needed) - 1).bit_length()

    @property
    def grid_step(self) -> float:
        """Code units per integer, C/``resolution``; 0.0 without noise, where codes travel as float32."""
        return self.clip_norm / self.resolution if self.noise_multiplier else 0.0

    @property
    def largest_value(self) -> int:
        """Largest magnitude an honest message can hold, in grid steps: exact, the noise is bounded."""
        return self.resolution + noise.reach(self.client_grid_std)

    @property
    def largest_norm(self) -> float:
        """The norm that an honest message exceeds with probability ``FALSE_ALARM`` at most, in grid steps.

        Without noise of its own that is the clip norm (in code units where codes travel as float32).
        """
        bound = self.resolution if self.noise_multiplier else self.clip_norm
        return noisy_norm_limit(self.size, bound, self.client_grid_std, FALSE_ALARM)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type on the wire: int16 if no honest value can leave it, else int32; float32 without noise."""
        if not self.noise_multiplier:
            return np.dtype(np.float32)
        return np.dtype(np.int16 if self.largest_value <= np.iinfo(np.int16).max else np.int32)

    @property
    def total_variance(self) -> float:
        """Noise variance that one protected sum must carry, in squared grid steps; 0 without noise."""
        if not self.noise_multiplier:
            return 0.0
        return (self.noise_multiplier * self.resolution) ** 2 + SMOOTHING_STD**2

    @property
    def client_grid_std(self) -> float:
        """Std of one client's noise, grid steps; 0 where clients add none."""
        if self.trust == "central":
            return 0.0
        return math.sqrt(self.total_variance / self.parts)

    def server_grid_std(self, releases: int) -> float:
        """Std, in grid steps, of the noise the server adds to a sum of ``releases`` messages.

        ``central``: all of it. ``distributed``: the shares that did not arrive. ``local``: none, or z·C once
        if nobody replied, so that no sum ever leaves bare. ``secure``: none.
        """
        if self.trust == "secure":
            return 0.0
        if self.trust == "central":
            return math.sqrt(self.total_variance)
        if self.trust == "local":
            return 0.0 if releases else math.sqrt(self.total_variance)
        shares = max(1, self.shares)
        return math.sqrt(self.total_variance * (shares - releases) / shares)

    def total_std(self, releases: int) -> float:
        """Std, code units, of the noise on what ``combine`` makes of ``releases`` messages: theirs and the server's.

        Never below z·C. Whatever the number in ``central`` and ``distributed``; it grows with it in ``local`` and
        ``secure``.
        """
        clients = releases * self.client_grid_std**2
        return math.sqrt(clients + self.server_grid_std(releases) ** 2) * self.grid_step


def release(code: Tensor, terms: ReleaseTerms, source: RandomSource) -> WireArray:
    """Clip one client's ``code`` (``terms.size`` values), put it on the grid, add noise; shape ``[size]``.

    In ``secure`` ``[2, size]``: one grid vector under two noises of their own. The second row is for a round that must
    be done again without some clients, and is never sent in another.

    Integers of ``terms.dtype`` in units of ``terms.grid_step``, or clipped float32 if the terms ask for no
    noise. A code with NaN or infinities is released as the zero code: that is the zero-out neighbor, while an
    error would be an unnoised answer about private data. Without noise it raises ``NonFiniteError`` instead. A
    code of another size raises ``ValueError``. Source: Algorithm 2 of the paper, lines of the client, with the
    clip after the encoder and noise that scales with C.
    """
    if code.numel() != terms.size:
        raise ValueError(f"code has {code.numel()} values, the terms say {terms.size}")
    if terms.noise_multiplier and not torch.isfinite(code).all():
        code = torch.zeros(terms.size)
    clipped = clip(code, terms.clip_norm, normalize=terms.normalize)
    values = clipped.values.numpy()
    if not terms.noise_multiplier:
        return values.copy()
    vector = noise.quantize(values, clipped.bound, terms.resolution, source)
    if terms.trust == "secure":
        rows = [noise.add_noise(vector, terms.client_grid_std, source) for _ in range(MOST_LEGS)]
        return np.stack(rows).astype(terms.dtype)
    return noise.add_noise(vector, terms.client_grid_std, source).astype(terms.dtype)


def combine(releases: Sequence[WireArray], terms: ReleaseTerms, source: RandomSource) -> Tensor:
    """What ``sum_releases`` gives, in code units: float32, shape ``[size]``."""
    return code_units(sum_releases(releases, terms, source), terms)


def code_units(total: WireArray, terms: ReleaseTerms) -> Tensor:
    """A sum of releases (shape ``[size]``) in code units: float32."""
    return torch.from_numpy((total * terms.grid_step if terms.noise_multiplier else total).astype(np.float32))


def sum_releases(releases: Sequence[WireArray], terms: ReleaseTerms, source: RandomSource) -> WireArray:
    """Sum ``releases`` (shape ``[size]`` each), add the server's noise; shape ``[size]``.

    int64 in units of ``terms.grid_step``, or float32 code units where the terms ask for no noise.

    In ``central`` and ``distributed`` the total noise variance is z²C² whatever the cohort, the empty one
    included; the module docstring proves why amplification by sampling needs that. The sum is exact (int64);
    divide it by a *public* denominator, never by ``len(releases)``. Raises ``ValueError`` for messages that
    ``check_release`` refuses, or for more messages than ``shares`` in ``distributed``.
    """
    if terms.trust == "distributed" and len(releases) > max(1, terms.shares):
        raise ValueError(f"{len(releases)} releases for {terms.shares} shares: the noise shares were cut too small")
    for values in releases:
        check_release(values, terms)
    if not terms.noise_multiplier:
        plain = np.sum([values.astype(np.float64) for values in releases], axis=0) if releases else np.zeros(terms.size)
        return plain.astype(np.float32)
    total = noise.discrete_gaussian(terms.size, terms.server_grid_std(len(releases)), source)
    for values in releases:
        total += values
    return total


def check_sum(total: NDArray[np.int64], terms: ReleaseTerms, releases: int) -> None:
    """Judge the noisy sum of ``releases`` codes (``secure``), grid steps, shape ``[size]``.

    Raises ``ValueError`` for a norm that no honest sum has: masks that did not come off, or a client that lies.
    """
    std = terms.total_std(releases) / terms.grid_step
    limit = noisy_norm_limit(terms.size, releases * terms.resolution, std, FALSE_ALARM)
    length = norm(total.astype(np.float64))
    if not length <= limit * (1 + 1e-6):
        raise ValueError(
            f"the sum has a norm of {length:.6g}, above what honest clients' ever has, {limit:.6g}: a client lies, or "
            "clients were shown different things"
        )


def check_release(values: WireArray, terms: ReleaseTerms) -> None:
    """Raise ``ValueError`` if no honest client could have sent ``values`` under ``terms``.

    Checked: shape, kind of number, range and norm, of this message alone. Where it carries no noise of its own the
    norm is bounded by the clip norm itself, so that in ``central`` a broken client cannot exceed its sensitivity; else
    by ``largest_norm``.
    """
    if values.shape != (terms.size,):
        raise ValueError(f"release has shape {values.shape}, expected ({terms.size},)")
    if values.dtype != terms.dtype:
        raise ValueError(f"release has dtype {values.dtype}, expected {terms.dtype}")
    if terms.client_std and int(np.abs(values.astype(np.int64)).max()) > terms.largest_value:
        raise ValueError(f"release holds values beyond ±{terms.largest_value}")
    length = norm(values.astype(np.float64))
    if not length <= terms.largest_norm * (1 + 1e-6):  # floating point: a sum of a million squares is off by less
        what = "what an honest client's ever is" if terms.client_std else "the clip norm"
        raise ValueError(f"release of norm {length:.6g} exceeds {what}, {terms.largest_norm:.6g}")
