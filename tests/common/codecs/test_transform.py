"""The implicit subspaces: orthonormal, reproducible, and as good as a dense random one.

Seeds are fixed, so a pass is a pass for ever; false-alarm rates are over the choice of seeds, for a correct
transform.
"""

from collections.abc import Callable
from math import sqrt

import pytest
import torch
from torch import Tensor

from common.codecs.transform import Buckets, Draw, signed_permutation
from tests.support.false_alarms import beyond, count_outside, statistical

SIZES = [(1, 1), (2, 1), (7, 3), (64, 16), (101, 100), (96, 96), (1009, 17)]
N, K, DRAWS = 512, 32, 3000
PINNED_ORDER = [9, 0, 10, 11, 6, 2, 3, 1, 4, 8, 7, 5]
PINNED_SIGNS = [-1, 1, 1, -1, 1, -1, 1, 1, 1, -1, -1, -1]


def matrix(dim: int, size: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """The implied matrix, row by row from its transpose."""
    subspace = Buckets(dim, size, Draw(11, 2, 0))
    return torch.stack([subspace.lift(row) for row in torch.eye(size, dtype=dtype)])


@pytest.mark.parametrize(("dim", "size"), SIZES)
def test_rows_are_orthonormal_to_rounding(dim: int, size: int) -> None:
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        rows = matrix(dim, size, dtype)
        assert (rows @ rows.T - torch.eye(size, dtype=dtype)).abs().max() < tolerance


@pytest.mark.parametrize(("dim", "size"), SIZES)
def test_projecting_is_the_transpose_of_lifting(dim: int, size: int) -> None:
    x = torch.randn(dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    projected = Buckets(dim, size, Draw(11, 2, 0)).project(x)
    assert torch.allclose(projected, matrix(dim, size) @ x, atol=1e-12)


def philox_block(counter: list[int], key: tuple[int, int]) -> list[int]:
    """Philox4x64-10 as published (Salmon et al., 2011, Section 3.3)."""
    k0, k1 = key
    c = counter
    mask = 2**64 - 1
    for _ in range(10):
        low, high = c[0] * 0xD2E7470EE14C6C93, c[2] * 0xCA5A826395121157
        c = [(high >> 64) ^ c[1] ^ k0, high & mask, (low >> 64) ^ c[3] ^ k1, low & mask]
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & mask, (k1 + 0xBB67AE8584CAA73B) & mask
    return c


def test_words_are_philox_under_the_key_seed_epoch() -> None:
    seed, epoch, stream = 2**62 + 12345, 77, 3
    expected = [word for low in (1, 2) for word in philox_block([low, 0, 0, stream], (seed, epoch))]
    assert Draw(seed, epoch, stream).words(8).tolist() == expected


def test_permutation_and_signs_are_pinned() -> None:
    """Changing this changes the codes of every federation under way: raise the codec's version instead."""
    order, signs = signed_permutation(12, Draw(seed=1, epoch=2, stream=3))
    assert order.tolist() == PINNED_ORDER
    assert signs.tolist() == PINNED_SIGNS


@statistical(beyond(5.5, 42), "seeded")
def test_permutation_and_signs_are_uniform() -> None:
    """Counts of (position, index) and of signs over 6000 draws, all within 5.5 deviations: alarm < 1e-5."""
    draws, size = 6000, 6
    counts, signs = torch.zeros(size, size), torch.zeros(size)
    for epoch in range(draws):
        order, sign = signed_permutation(size, Draw(9, epoch, 0))
        assert sorted(order.tolist()) == list(range(size))
        counts[torch.arange(size), order] += 1
        signs[order] += sign
    deviation = sqrt(draws * (1 / size) * (1 - 1 / size))
    assert (counts - draws / size).abs().max() < 5.5 * deviation
    assert signs.abs().max() < 5.5 * sqrt(draws)


def lora_like() -> Tensor:
    """Outer products of very different scales, heavy-tailed along one side: what LoRA gradients look like."""
    generator = torch.Generator().manual_seed(1)
    parts = []
    for index in range(4):
        scale = 4.0**index
        left = torch.randn(8, 2, generator=generator)
        right = torch.randn(2, 16, generator=generator) * torch.randn(16, generator=generator).exp()
        parts.append(scale * (left @ right).flatten())
    return torch.cat(parts)


VECTORS: dict[str, Callable[[], Tensor]] = {
    "isotropic": lambda: torch.randn(N, generator=torch.Generator().manual_seed(2)),
    "constant": lambda: torch.ones(N),
    "smooth": lambda: torch.cos(torch.arange(N) * 0.05),
    "lora-like": lora_like,
    "five coordinates": lambda: torch.cat((torch.tensor([1.0, -2.0, 3.0, 1.0, 1.0]), torch.zeros(N - 5))),
    "one coordinate": lambda: torch.eye(N)[7],
}


@pytest.mark.parametrize("kind", VECTORS)
@statistical(beyond(5, 2), "seeded")
def test_captured_energy_is_that_of_a_dense_random_subspace(kind: str) -> None:
    """Mean k/n within 5 standard errors; variance at most the Haar one plus 20 %.

    Haar: ‖Qx‖² ~ Beta(k/2, (n-k)/2), variance 2k(n-k)/(n²(n+2)). The sample variance of 3000 draws deviates
    by 2.6 % (normal) to 4 % (five coordinates, heavier tails), so the margin is 5 deviations or more: alarm
    below 1e-5 in all. Power: a transform whose variance is 40 % above Haar's fails with probability above
    .999, a mean off by 2 % likewise.
    """
    x = VECTORS[kind]()
    x = x / x.norm()
    energies = torch.stack([Buckets(N, K, Draw(4, epoch, 0)).project(x).square().sum() for epoch in range(DRAWS)])
    haar = 2 * K * (N - K) / (N**2 * (N + 2))
    assert abs(energies.mean() - K / N) < 5 * sqrt(haar / DRAWS)
    assert energies.var() < 1.2 * haar


@statistical(beyond(5, 2), "seeded")
def test_inner_products_are_preserved_on_average_as_by_a_dense_subspace() -> None:
    """⟨Qx, Qy⟩ has mean (k/n)⟨x, y⟩ (5 standard errors), at most Haar's variance + 20 %: alarm < 1e-5.

    Haar variance for unit x, y with cosine r: by polarization (k/n)²·(1-k/n)/k·(1 + r²)·n/(n+2) up to O(1/n).
    """
    x, y = lora_like(), VECTORS["isotropic"]()
    x, y = x / x.norm(), y / y.norm()
    y = (x + y) / (x + y).norm()
    r = (x @ y).item()
    products = []
    for epoch in range(DRAWS):
        subspace = Buckets(N, K, Draw(4, epoch, 0))
        products.append(subspace.project(x) @ subspace.project(y))
    found = torch.stack(products)
    haar = (K / N) ** 2 * (1 - K / N) / K * (1 + r * r)
    assert abs(found.mean() - K / N * r) < 5 * sqrt(haar / DRAWS)
    assert found.var() < 1.2 * haar


@statistical(count_outside(48, 142, DRAWS, 1 / K), "seeded")
def test_energy_of_two_coordinates_has_the_tails_of_a_shared_bucket() -> None:
    """Unlike in a dense one, two coordinates share a bucket with chance 1/k and then cancel or double.

    Haar's chance of keeping under a tenth of k/n, or over 1.9 times it, is below 1e-4 at k = 32; ``buckets``
    has 1/k.
    """
    x = torch.cat((torch.tensor([sqrt(0.5), sqrt(0.5)]), torch.zeros(N - 2)))
    ratios = torch.stack([Buckets(N, K, Draw(4, epoch, 0)).project(x).square().sum() for epoch in range(DRAWS)]) * (
        N / K
    )
    extreme = ((ratios < 0.1) | (ratios > 1.9)).float().mean().item()
    assert 0.5 / K < extreme < 1 / K + 5 * sqrt(1 / K / DRAWS)


@statistical(beyond(5), "seeded")
def test_epochs_are_independent() -> None:
    """‖Q_a Q_bᵀ‖² has mean k²/n if independent (k for equal ones): 300 pairs, 5 standard errors."""
    dim, size = 256, 16
    overlaps = []
    for epoch in range(300):
        one, other = (Buckets(dim, size, Draw(4, epoch + step, 0)) for step in (0, 1))
        rows = torch.stack([one.project(other.lift(row)) for row in torch.eye(size)])
        overlaps.append(rows.square().sum())
    found = torch.stack(overlaps)
    assert abs(found.mean() - size**2 / dim) < 5 * found.std() / sqrt(len(found))


def test_seeds_epochs_and_streams_all_give_other_subspaces() -> None:
    x = VECTORS["isotropic"]()
    draws = [Draw(0, 0, 0), Draw(1, 0, 0), Draw(0, 1, 0), Draw(0, 0, 1), Draw(1, 1, 0), Draw(2**63 - 1, 0, 0)]
    codes = [tuple(Buckets(N, K, draw).project(x).tolist()) for draw in draws]
    assert len(set(codes)) == len(draws)
