"""No compression: the code is the adapter vector itself (LoRA with DP, the baseline)."""

from torch import Tensor

from common.adapter import Layout
from common.codecs.base import Codec, CodecState, EncoderSpec, check_shape, layout_fields, register, working

KIND = "identity"
VERSION = 1


class IdentityCodec(Codec):
    """``encode`` and ``decode`` copy their argument in working precision; ``size`` = ``dim`` = n."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    @property
    def dim(self) -> int:
        """Number of values ``n`` of the adapter vector."""
        return self._layout.size

    @property
    def size(self) -> int:
        """Number of values of the code: ``n``."""
        return self._layout.size

    def encode(self, vector: Tensor) -> Tensor:
        """Return a copy of ``vector`` (shape ``[n]``)."""
        check_shape("adapter vector", vector, self.dim)
        return working(vector).clone()

    def decode(self, code: Tensor) -> Tensor:
        """Return a copy of ``code`` (shape ``[n]``)."""
        check_shape("code", code, self.size)
        return working(code).clone()

    def spec(self) -> EncoderSpec:
        """Say which adapter this is for, which is all there is to say."""
        return EncoderSpec(KIND, VERSION, layout_fields(self._layout))


def _from_parcel(_: EncoderSpec | CodecState, layout: Layout) -> IdentityCodec:
    return IdentityCodec(layout)


register(KIND, VERSION, _from_parcel, _from_parcel)
