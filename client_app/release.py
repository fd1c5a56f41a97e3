"""Algorithm 2, client side: gradient -> encode -> clip -> noise -> one array for the wire.

The paper clips A and B of every layer separately (Eq 1-2) and adds noise that does not scale with the clip norm
(Eq 3-4). Here the whole code is clipped at once, after encoding, and the noise is calibrated to that bound: see
docs/privacy.md. With ``privacy.mechanism = "printed"`` the parts are clipped first, as printed, and the noise is the
paper's; the terms then state the bound and the noise multiplier that this really amounts to.
"""

import math

import numpy as np
import torch
from torch import Tensor

from common.codecs.base import Encoder
from common.privacy.clipping import SMALLEST_BOUND, clip_parts
from common.privacy.mechanism import ReleaseTerms, release
from common.privacy.noise import RandomSource
from common.wire import Task


def release_nothing(task: Task, source: RandomSource) -> np.ndarray:
    """What a client outside the cohort answers (cover traffic): the zero code with its noise; in the clear, zeros."""
    zeros = torch.zeros(task.terms.size)
    return zeros.numpy() if task.raw else release(zeros, task.terms, source)


def release_gradient(gradient: Tensor, encoder: Encoder, terms: ReleaseTerms, source: RandomSource) -> np.ndarray:
    """Turn a flat LoRA gradient (shape ``[n]``) into what may leave the client (shape ``[k]``).

    Args:
        gradient: the client's flat LoRA gradient G (Algorithm 2, step 3).
        encoder: Enc of stage 1 (step 4).
        terms: clip norm and noise (steps 5 and 6); the site's policy has accepted them.
        source: randomness of the noise.

    """
    code = encoder.encode(gradient)
    if terms.per_tensor and torch.isfinite(code).all():
        share = terms.clip_norm / math.sqrt(len(encoder.parts))
        code = clip_parts(code, encoder.parts, max(share, SMALLEST_BOUND))  # Eq (1)-(2); never an error
    return release(code, terms, source)  # clip, then noise: the types allow no other order
