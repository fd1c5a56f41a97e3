"""The encoders of a run, rebuilt from their specification once and kept in this process."""

import numpy as np
import torch
from torch import Tensor

from common.adapter import Layout
from common.codecs.base import Encoder, EncoderSpec, build_encoder
from common.wire.records import WireError

_kept: list[tuple[EncoderSpec, Layout, Encoder]] = []


def encoder_for(spec: EncoderSpec, layout: Layout, size: int, epoch: int = 0) -> Encoder:
    """The encoder of a specification, with the subspace of an epoch; the last one is kept, as all clients use it.

    In a round a client decodes the sum of the round before by the draw that it has kept, then encodes by the next.
    ``layout``: of the run's adapter. Raises ``WireError`` for one that cannot be built, or that makes codes of another
    size than the terms'.
    """
    encoder = _kept_for(spec, layout) or _built(spec, layout)
    _check_size(encoder, size)
    encoder = encoder.redraw(epoch)
    _kept[:] = [(spec, layout, encoder)]
    return encoder


def _kept_for(spec: EncoderSpec, layout: Layout) -> Encoder | None:
    for kept, its_layout, encoder in _kept:
        if its_layout == layout and _same(kept, spec):
            return encoder
    return None


def _built(spec: EncoderSpec, layout: Layout) -> Encoder:
    """A new one, of epoch 0 as every specification that is sent."""
    if spec.fields.get("epoch", 0) != 0:
        raise WireError(f"encoder: its subspaces are those of epoch {spec.fields['epoch']!r}, expected 0")
    try:
        return build_encoder(spec, layout)  # holds its arrays against the layout: memory is bounded
    except (ValueError, TypeError, OverflowError, MemoryError, RuntimeError) as error:
        raise WireError(f"encoder: {error}") from None


def _check_size(encoder: Encoder, size: int) -> None:
    if encoder.size != size:
        raise WireError(f"encoder: its code has {encoder.size} values, the terms say {size}")


def _same(one: EncoderSpec, other: EncoderSpec) -> bool:
    """Whether two specifications are equal, array by array: a comparison costs less than a hash or a new encoder."""
    if _told(one) != _told(other) or one.arrays.keys() != other.arrays.keys():
        return False
    pairs = ((array, other.arrays[name]) for name, array in one.arrays.items())
    return all(a.dtype == b.dtype and a.shape == b.shape and _same_bits(a, b) for a, b in pairs)


def _told(spec: EncoderSpec) -> tuple[str, int, str]:
    """All but the arrays; 64.0 equals 64 to Python and would be refused, so fields are compared as they are written."""
    return spec.kind, spec.version, repr(sorted(spec.fields.items()))


def _same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same bytes, several times faster than value by value where those are float16."""
    first, second = (tensor.contiguous().view(-1).view(torch.uint8).numpy() for tensor in (one, other))
    return np.array_equal(first, second)
