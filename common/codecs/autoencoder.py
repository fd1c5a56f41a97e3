"""Codecs whose encoder and decoder are trained networks; ``dense`` and ``conv`` say which networks.

Training is the server's business (``server_app.priors.synthetic``); here are encoding, decoding and traveling. Inputs
are divided by one public scalar, made from the statistics, so that networks see values of order one; codes
may be divided by another one, so that a release of norm 1 decodes to what the network was trained on. A
decoder's weights are fitted, so even a code of zeros decodes to something: ``decode(zeros)`` is a fixed
vector, to be subtracted or used as a control.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from common.adapter import Layout
from common.codecs.base import (
    Codec,
    CodecState,
    Encoder,
    EncoderSpec,
    Scalar,
    check_shape,
    layout_fields,
    register,
    working,
)

_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class Architecture:
    """A family of AutoEncoders; the adapter's size n and one ``option`` determine everything but the weights.

    ``code_size(n, option)`` is k and raises ``ValueError`` on an option that does not suit n; ``encoder(n,
    option)`` makes a network from ``[m, n]`` to ``[m, k]``, ``decoder(n, option)`` one from ``[m, k]`` to
    ``[m, n]``. ``initialize(encoder, decoder)`` chooses weights to start training from.
    """

    kind: str
    version: int
    option: str
    code_size: Callable[[int, int], int]
    encoder: Callable[[int, int], nn.Module]
    decoder: Callable[[int, int], nn.Module]
    initialize: Callable[[nn.Module, nn.Module], None] | None = None


class NeuralEncoder(Encoder):
    """A trained encoder in evaluation mode; computes in float32.

    Args:
        layout: the adapter.
        architecture: the family of networks.
        option: which member of the family.
        scale: positive; inputs are divided by it.
        encoder: the network, as ``architecture.encoder`` makes it; it is switched to evaluation for good.
        code_scale: positive; codes are divided by it.

    """

    def __init__(
        self,
        layout: Layout,
        architecture: Architecture,
        *,
        option: int,
        scale: float,
        encoder: nn.Module,
        code_scale: float = 1.0,
    ) -> None:
        for name, value in (("scale", scale), ("code-scale", code_scale)):
            if not 0 < value < float("inf"):
                raise ValueError(f"codec '{architecture.kind}': {name} = {value} must be positive and finite")
        self._layout, self._architecture, self._option = layout, architecture, option
        self._scale, self._code_scale = scale, code_scale
        self._size = architecture.code_size(layout.size, option)
        self._encoder = encoder.eval().requires_grad_(False)

    @property
    def dim(self) -> int:
        """Number of values ``n`` of the adapter vector."""
        return self._layout.size

    @property
    def size(self) -> int:
        """Number of values ``k`` of the code."""
        return self._size

    def encode(self, vector: Tensor) -> Tensor:
        """Return ``Enc(x / scale) / code_scale``: shape ``[n]`` to ``[k]``; another shape raises ``ValueError``."""
        check_shape("adapter vector", vector, self.dim)
        return _apply(self._encoder, vector, before=1 / self._scale, after=1 / self._code_scale)

    def spec(self) -> EncoderSpec:
        """Give the encoder's weights and the scale; nothing of the decoder."""
        return EncoderSpec(
            self._architecture.kind,
            self._architecture.version,
            self._fields(),
            _weights("encoder", self._encoder),
        )

    def _fields(self) -> dict[str, Scalar]:
        scales = {"scale": self._scale, "code-scale": self._code_scale}
        return {**layout_fields(self._layout), self._architecture.option: self._option, **scales}


class NeuralCodec(NeuralEncoder, Codec):
    """``NeuralEncoder`` with its trained decoder, ``decode(c) = scale · Dec(code_scale · c)``."""

    def __init__(
        self,
        layout: Layout,
        architecture: Architecture,
        *,
        option: int,
        scale: float,
        encoder: nn.Module,
        decoder: nn.Module,
        code_scale: float = 1.0,
    ) -> None:
        super().__init__(layout, architecture, option=option, scale=scale, encoder=encoder, code_scale=code_scale)
        self._decoder = decoder.eval().requires_grad_(False)

    def decode(self, code: Tensor) -> Tensor:
        """Return ``scale · Dec(code_scale · c)``: shape ``[k]`` to ``[n]``; another shape raises ``ValueError``."""
        check_shape("code", code, self.size)
        return _apply(self._decoder, code, before=self._code_scale, after=self._scale)

    def rescaled(self, code_scale: float) -> "NeuralCodec":
        """The same codec with codes divided by ``code_scale`` (positive, else ``ValueError``)."""
        return NeuralCodec(
            self._layout,
            self._architecture,
            option=self._option,
            scale=self._scale,
            encoder=self._encoder,
            decoder=self._decoder,
            code_scale=code_scale,
        )

    @property
    def parameters(self) -> tuple[int, int]:
        """Trained parameters of the encoder and of the decoder (running statistics are none)."""
        encoder, decoder = (sum(p.numel() for p in half.parameters()) for half in (self._encoder, self._decoder))
        return encoder, decoder

    def state(self) -> CodecState:
        """Give the weights of both halves and the scale."""
        arrays = {**_weights("encoder", self._encoder), **_weights("decoder", self._decoder)}
        return CodecState(self._architecture.kind, self._architecture.version, self._fields(), arrays)


def register_architecture(architecture: Architecture) -> None:
    """Make codecs of this architecture known to ``build_encoder`` and ``codec_from_state``."""

    def common(parcel: EncoderSpec | CodecState, layout: Layout) -> dict[str, Any]:
        option = parcel.value(architecture.option, int)
        scales = {"scale": parcel.value("scale", float), "code_scale": parcel.value("code-scale", float)}
        architecture.code_size(layout.size, option)
        return {
            "option": option,
            "encoder": _load("encoder", architecture.encoder, parcel, layout.size, option),
            **scales,
        }

    def load_encoder(spec: EncoderSpec, layout: Layout) -> NeuralEncoder:
        return NeuralEncoder(layout, architecture, **common(spec, layout))

    def load_codec(state: CodecState, layout: Layout) -> NeuralCodec:
        shared = common(state, layout)
        decoder = _load("decoder", architecture.decoder, state, layout.size, shared["option"])
        return NeuralCodec(layout, architecture, **shared, decoder=decoder)

    register(architecture.kind, architecture.version, load_encoder, load_codec)


@torch.no_grad()
def _apply(network: nn.Module, vector: Tensor, before: float = 1.0, after: float = 1.0) -> Tensor:
    """Run one vector through a network on the vector's device, in float32."""
    result: Tensor = network.to(vector.device)((vector.float() * before)[None])[0] * after
    return result.to(working(vector).dtype)


def _weights(half: str, network: nn.Module) -> dict[str, Tensor]:
    """List parameters and running statistics, on the CPU, as ``<half>.<name>``; batch counters are of no use here."""
    found: Mapping[str, Tensor] = network.state_dict()
    return {f"{half}.{name}": value.cpu().clone() for name, value in found.items() if not name.endswith(_COUNTER)}


def _load(
    half: str, make: Callable[[int, int], nn.Module], parcel: EncoderSpec | CodecState, dim: int, option: int
) -> nn.Module:
    """Rebuild a network from ``_weights``, every shape checked; draws no random numbers."""
    with torch.device("meta"):
        network = make(dim, option)
    weights = {
        name: torch.zeros((), dtype=torch.int64)
        if name.endswith(_COUNTER)
        else parcel.array(f"{half}.{name}", tuple(blank.shape)).to(torch.float32, copy=True)
        for name, blank in network.state_dict().items()
    }
    network.load_state_dict(weights, assign=True)
    return network
