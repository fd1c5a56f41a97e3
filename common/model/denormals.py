"""Numbers below a processor's normal range: an adapter can bring them about by a text, whose presence time then tells.

A product with one takes a processor some hundred times as long. An adapter that sends the activations of one known row
there, and of no other, made an answer take half as long again for each such row in a batch of eight.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def no_denormals() -> Iterator[None]:
    """Such numbers count as zero in the block, in this thread."""
    before = _are_zero()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def _are_zero() -> bool:
    return not bool(torch.tensor(1e-30) * torch.tensor(1e-10))
