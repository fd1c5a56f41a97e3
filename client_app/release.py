"""Algorithm 2, client side: gradient -> encode -> clip -> noise -> one array for the wire.

The paper clips A and B of every layer separately (Eq 1-2) and adds noise that does not scale with the clip norm
(Eq 3-4). Here the whole code is clipped at once, after encoding, and the noise is calibrated to that bound: see
docs/privacy.md; ``benchmarks/printed_mechanism.py`` has the paper's way.
"""

import numpy as np
from torch import Tensor

from common.codecs.base import Encoder
from common.privacy.mechanism import ReleaseTerms, release
from common.privacy.noise import RandomSource


def release_gradient(gradient: Tensor, encoder: Encoder, terms: ReleaseTerms, source: RandomSource) -> np.ndarray:
    """Turn a flat LoRA gradient (shape ``[n]``) into what may leave the client (shape ``[k]``).

    Args:
        gradient: the client's flat LoRA gradient G (Algorithm 2, step 3).
        encoder: Enc of stage 1 (step 4).
        terms: clip norm and noise (steps 5 and 6); the site's policy has accepted them.
        source: randomness of the noise.

    """
    return release(encoder.encode(gradient), terms, source)  # clip, then noise: the types allow no other order
