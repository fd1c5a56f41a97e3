"""FedCG's convolutional AutoEncoder (ResNet-3), generalized to an adapter of any size.

The flat vector, padded with zeros, is read row by row as an image ``[1, H, W]`` whose sides are multiples of
2^depth and whose height is about twice its width: for LLaMA-7B with rank 8 (n = 2^23) FedCG's ``[1, 4096,
2048]``. The order of values is the layout's, not FedCG's layer-major ``[Aᵀ|B]``. Encoder: a 3x3 stem 1→1,
then ``depth`` times 3x3 with stride 2, BN and ReLU, channels 2, 4, ..., 2^depth, then three residual blocks.
Decoder: the mirror image, a 7x7 convolution and Tanh.

Convolutions before a BN have no bias and the stem has a BN (without ReLU, which would drop half of all
signs): that choice gives FedCG's parameter counts exactly, 246,785 for the encoder and 246,698 for the
decoder at depth 6.
"""

from math import sqrt

from torch import Tensor, nn
from torch.nn import functional

from common.codecs.autoencoder import Architecture, register_architecture

RESIDUAL_BLOCKS = 3
_DEPTH = 6


def usual_depth(dim: int) -> int:
    """FedCG's depth 6, or the deepest that ``dim`` values allow: they shrink to about ``dim`` / 2^depth.

    >>> usual_depth(98_304), usual_depth(3072)
    (6, 5)
    """
    return max(1, min(_DEPTH, _deepest(dim)))


def _deepest(dim: int) -> int:
    return (dim.bit_length() - 1) // 2


def image_shape(dim: int, depth: int) -> tuple[int, int]:
    """Return (H, W), multiples of 2^depth with H·W ≥ n; a depth outside 1..log₄(n) raises ``ValueError``."""
    if not 1 <= depth <= _deepest(dim):
        raise ValueError(f"depth = {depth} does not suit {dim} values; allowed: 1 to {_deepest(dim)}")
    unit = 1 << depth
    width = unit * max(1, round(sqrt(dim / 2) / unit))
    return unit * -(-dim // (width * unit)), width


def conv_code_size(dim: int, depth: int) -> int:
    """Return k = H·W / 2^depth: 2^depth channels of (H / 2^depth) x (W / 2^depth)."""
    height, width = image_shape(dim, depth)
    return (height * width) >> depth


class _Residual(nn.Module):
    """``x + BN(conv(ReLU(BN(conv(x)))))``, shape kept."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, image: Tensor) -> Tensor:
        result: Tensor = image + self.branch(image)
        return result


class ConvEncoder(nn.Module):
    """``[m, n]`` to ``[m, k]``."""

    def __init__(self, dim: int, depth: int) -> None:
        super().__init__()
        self._dim, self._shape = dim, image_shape(dim, depth)
        layers: list[nn.Module] = [nn.Conv2d(1, 1, 3, padding=1, bias=False), nn.BatchNorm2d(1)]
        for level in range(depth):
            down = nn.Conv2d(2**level, 2 ** (level + 1), 3, stride=2, padding=1, bias=False)
            layers += [down, nn.BatchNorm2d(2 ** (level + 1)), nn.ReLU()]
        layers += [_Residual(2**depth) for _ in range(RESIDUAL_BLOCKS)]
        self.layers = nn.Sequential(*layers)

    def forward(self, vectors: Tensor) -> Tensor:
        """Encode a batch: shape ``[m, n]`` to ``[m, k]``."""
        height, width = self._shape
        padded = functional.pad(vectors, (0, height * width - self._dim))
        result: Tensor = self.layers(padded.view(-1, 1, height, width)).flatten(1)
        return result


class ConvDecoder(nn.Module):
    """``[m, k]`` to ``[m, n]``, values in (-1, 1)."""

    def __init__(self, dim: int, depth: int) -> None:
        super().__init__()
        height, width = image_shape(dim, depth)
        self._dim, self._shape = dim, (2**depth, height // 2**depth, width // 2**depth)
        layers: list[nn.Module] = [_Residual(2**depth) for _ in range(RESIDUAL_BLOCKS)]
        for level in reversed(range(depth)):
            up = nn.ConvTranspose2d(2 ** (level + 1), 2**level, 3, stride=2, padding=1, output_padding=1, bias=False)
            layers += [up, nn.BatchNorm2d(2**level), nn.ReLU()]
        layers += [nn.Conv2d(1, 1, 7, padding=3), nn.Tanh()]
        self.layers = nn.Sequential(*layers)

    def forward(self, codes: Tensor) -> Tensor:
        """Decode a batch: shape ``[m, k]`` to ``[m, n]``."""
        result: Tensor = self.layers(codes.view(-1, *self._shape)).flatten(1)[:, : self._dim]
        return result


CONV = Architecture(
    kind="conv",
    version=2,
    option="depth",
    code_size=conv_code_size,
    encoder=ConvEncoder,
    decoder=ConvDecoder,
)
"""``codec.kind = conv``; the option is the depth."""

register_architecture(CONV)
