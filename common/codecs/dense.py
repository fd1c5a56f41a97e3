"""The trained linear AutoEncoder: a dense encoder (k x n) and decoder (n x k), each with a bias.

The paper's "fundamental architecture" in its simplest form. It costs 4·k·(n+1) bytes to send, so it suits
small adapters only; trained on independent Gaussians it can at best reach what ``linear`` has for free.
"""

import torch
from torch import nn

from common.codecs.autoencoder import Architecture, register_architecture


def code_size(dim: int, size: int) -> int:
    """Return k = ``size``; outside 1..n it raises ``ValueError``."""
    if not 1 <= size <= dim:
        raise ValueError(f"codec.size = {size} is out of range; allowed: 1 to {dim}")
    return size


@torch.no_grad()
def start_orthonormal(encoder: nn.Module, decoder: nn.Module) -> None:
    """Start from a random orthonormal projection and its transpose, without biases.

    That is the optimum for tensors of equal deviation; from independent weights Adam needs hundreds of steps
    merely to get as good as it.
    """
    nn.init.orthogonal_(encoder.get_parameter("weight"))
    decoder.get_parameter("weight").copy_(encoder.get_parameter("weight").T)
    nn.init.zeros_(encoder.get_parameter("bias"))
    nn.init.zeros_(decoder.get_parameter("bias"))


DENSE = Architecture(
    kind="dense",
    version=2,
    option="size",
    code_size=code_size,
    encoder=nn.Linear,
    decoder=lambda dim, size: nn.Linear(size, dim),
    initialize=start_orthonormal,
)
"""``codec.kind = linear`` with ``codec.form = trained``; the option is k."""

register_architecture(DENSE)
