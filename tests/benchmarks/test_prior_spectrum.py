"""The benchmark of a prior's rows: energies, and what vectors agree on."""

import torch

from benchmarks.prior_spectrum import BANDS, agreement, bands, shares
from common.adapter import Layout
from common.codecs.rows import BlockRows
from tests.tiny import vectors


def test_agreement_is_the_mean_without_what_is_each_vectors_own() -> None:
    noise = vectors(400, 300, 1)
    common = torch.zeros(300)
    common[3] = 0.5
    found = agreement(noise + common)
    assert found.argmax() == 3
    assert abs(float(found[3]) - 0.25) < 0.15
    assert abs(float(agreement(noise).sum())) < 0.3
    assert float(noise.mean(dim=0).square().sum()) > 0.5, "what single vectors add to the plain square"


def test_shares_are_those_of_the_rows() -> None:
    layout = Layout.of({"a": (4,)})
    rows = BlockRows(layout, torch.tensor([[0, 4, 2]]), torch.eye(4)[:2].flatten())
    gradients = torch.tensor([[0.6, 0.8, 0.0, 0.0], [0.6, 0.0, 0.8, 0.0]] * 4)
    energy, agreed = shares(rows, gradients)
    assert torch.allclose(energy, torch.tensor([0.36, 0.32]), atol=1e-3)
    assert torch.allclose(agreed, torch.tensor([1.0, 0.0]), atol=1e-3)


def test_bands_and_what_is_left_make_one() -> None:
    found = bands(torch.full((BANDS[-1],), 1 / 512))
    assert found[0] == 4 / 512
    assert len(found) == len(BANDS)
    assert abs(sum(found) - 1) < 1e-6
