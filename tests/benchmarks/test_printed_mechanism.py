"""The paper's printed mechanism: its own analysis, and what its noise really amounts to."""

import math

import numpy as np
import pytest
import torch

from benchmarks.printed_mechanism import (
    PrintedMechanism,
    clip_parts,
    composed_epsilon,
    printed_message,
    printed_sigma,
)
from common.privacy.accounting import Charge, epsilon
from common.privacy.noise import RandomSource
from tests.support.codec_examples import LAYOUT
from tests.support.false_alarms import beyond, rms_outside, statistical

SIGMA, COHORT, CLIP = 3.0, 4.0, 0.5
PRINTED = PrintedMechanism(SIGMA, COHORT, len(LAYOUT.tensors), CLIP)
SIZES = tuple(piece.size for piece in LAYOUT.tensors)


@pytest.mark.parametrize("wanted", [0.5, 2.0, 8.0])
def test_sigma_is_the_inverse_of_the_claim(wanted: float) -> None:
    sigma = printed_sigma(wanted, 1 / 149, 0.05, 20)
    assert PrintedMechanism(sigma, 5, 2, 1.0).claimed_epsilon(0.05, 20, 1 / 149) == pytest.approx(wanted, rel=1e-9)


def test_the_claim_is_far_below_what_the_mean_gives() -> None:
    """LLaMA of Table 3 at sigma = .46 (claimed: 4), with M = 100 clients and one layer's A and B."""
    llama = PrintedMechanism(0.46, 5, 2, 1.0)
    claimed = llama.claimed_epsilon(0.05, 20, 1 / 149)
    assert composed_epsilon(llama.mean_multiplier, 20, 1 / 149) > 10 * claimed
    assert composed_epsilon(llama.message_multiplier, 20, 1 / 149) > composed_epsilon(
        llama.mean_multiplier, 20, 1 / 149
    )


def test_composition_agrees_with_the_accountant() -> None:
    assert composed_epsilon(4.0, 50, 1e-5) == pytest.approx(epsilon([Charge(4.0, 1.0, 50)], 1e-5), rel=1e-9)


def test_clipping_the_parts_leaves_the_joint_norm_that_the_paper_overlooks() -> None:
    clipped = clip_parts(100 * torch.ones(LAYOUT.size), SIZES, CLIP)
    assert all(part.norm() == pytest.approx(CLIP, rel=1e-5) for part in clipped.split(SIZES))
    assert clipped.norm() == pytest.approx(CLIP * math.sqrt(len(SIZES)), rel=1e-5)
    small = torch.full((LAYOUT.size,), 1e-4)
    assert torch.allclose(clip_parts(small, SIZES, CLIP), small, rtol=1e-6)


@statistical(rms_outside(0.99, 1.01, 10**5) + beyond(5), "seeded")
def test_a_message_is_the_clipped_parts_plus_noise_of_two_sigma_over_k() -> None:
    """Through the app's own release; 100,000 values: false alarms 9e-6, a std off by 2 % is missed in 5e-6."""
    gradient = torch.cat([torch.full((size,), 10.0**place) for place, size in enumerate(SIZES)])
    expected = clip_parts(gradient, SIZES, CLIP).numpy()
    source = RandomSource.insecure(1)
    repeats = math.ceil(100_000 / LAYOUT.size)
    sent = np.stack([printed_message(gradient, SIZES, PRINTED, source) for _ in range(repeats)])
    noise = sent - expected
    assert noise.std() == pytest.approx(2 * SIGMA / COHORT, rel=0.01)
    assert abs(noise.mean()) < 5 * (2 * SIGMA / COHORT) / math.sqrt(noise.size)
