"""Stage 1's statistics as weights of tensors, for experiments: encode x·w, decode c·w, w_t = (e_t/n_t)^(a/2) normed.

A clipped code then spends its bound on the tensors that carry the energy, and the decoded noise is largest where the
signal is. ``e_t/n_t`` is the mean square of a tensor's gradient values as stage 1 has released it: no more privacy is
spent. Strategies ``weighted-code`` (a = .5) and ``fully-weighted-code`` (a = 1), ``dr-encoder`` with its codec
weighted, are known to ``benchmarks.real_model`` only: they earn a place in the app by winning (docs/experiments.md).
"""

from flwr.serverapp import Grid
from torch import Tensor

from common.adapter import Layout
from common.codecs.base import (
    Codec,
    CodecState,
    Encoder,
    EncoderSpec,
    build_encoder,
    codec_from_state,
    register,
)
from common.codecs.statistics import GradientStatistics
from server_app.priors.synthetic import train_prior
from server_app.strategies.dr_encoder import DrEncoder
from server_app.strategies.two_stage import prior_settings

KIND, VERSION = "weighted", 1


def tensor_weights(layout: Layout, statistics: GradientStatistics, exponent: float) -> Tensor:
    """One weight for each tensor (shape ``[n_t]``) whose square has the mean 1 over the adapter's values.

    A tensor without energy gets the smallest weight of the others. Raises ``ValueError`` if none has any.
    """
    energy = statistics.mean.square() + statistics.std.square()
    if not energy.any():
        raise ValueError("statistics are zero everywhere: no tensor can weigh more than another")
    weights = energy.clamp(min=float(energy[energy > 0].min())) ** (exponent / 2)
    return weights / layout.expand(weights).square().mean().sqrt()


class WeightedEncoder(Encoder):
    """An encoder of ``x·w``; ``weights`` has shape ``[n_t]``."""

    def __init__(self, inner: Encoder, layout: Layout, weights: Tensor) -> None:
        self.inner, self._layout, self.weights = inner, layout, weights
        self._each = layout.expand(weights)

    @property
    def dim(self) -> int:
        """Number of values ``n`` of the adapter vector."""
        return self.inner.dim

    @property
    def size(self) -> int:
        """Number of values ``k`` of the code."""
        return self.inner.size

    def encode(self, vector: Tensor) -> Tensor:
        """Return the code of ``x·w``: shape ``[n]`` to ``[k]``."""
        return self.inner.encode(vector * self._each.to(vector))

    def spec(self) -> EncoderSpec:
        """The spec of the encoder within, and the weights."""
        held = self.inner.spec()
        fields = {**held.fields, "inner": held.kind, "inner-version": held.version}
        return EncoderSpec(KIND, VERSION, fields, {**held.arrays, "weights": self.weights})


class WeightedCodec(WeightedEncoder, Codec):
    """``WeightedEncoder`` with the weights on what is decoded too, as its transpose has them."""

    inner: Codec

    def decode(self, code: Tensor) -> Tensor:
        """Return ``Dec(c)·w``: shape ``[k]`` to ``[n]``."""
        return self.inner.decode(code) * self._each.to(code)

    def redraw(self, epoch: int) -> "WeightedCodec":
        """The codec within is redrawn, the weights stay."""
        return WeightedCodec(self.inner.redraw(epoch), self._layout, self.weights)

    def state(self) -> CodecState:
        """The state of the codec within, and the weights."""
        held = self.inner.state()
        fields = {**held.fields, "inner": held.kind, "inner-version": held.version}
        return CodecState(KIND, VERSION, fields, {**held.arrays, "weights": self.weights})


class WeightedCode(DrEncoder):
    """``dr-encoder`` whose codec weighs tensors by what stage 1 has told of them.

    ``exponent`` a: 0 weighs all alike, 1 by the root mean square of a tensor's gradient values.
    """

    exponent = 0.5

    def prepare(self, grid: Grid) -> Codec:
        """Algorithm 1, and the weights from the same statistics."""
        statistics = self._collect_statistics(grid)
        settings = prior_settings(self.config.codec, self.config.seed, self.layout)
        codec, report = train_prior(self.layout, statistics, settings)
        self.state.prior = report.figures()
        return WeightedCodec(codec, self.layout, tensor_weights(self.layout, statistics, self.exponent))


class FullyWeightedCode(WeightedCode):
    """The same with a = 1."""

    exponent = 1.0


WEIGHTED = {"weighted-code": WeightedCode, "fully-weighted-code": FullyWeightedCode}


def _encoder(spec: EncoderSpec, layout: Layout) -> WeightedEncoder:
    inner = EncoderSpec(spec.value("inner", str), spec.value("inner-version", int), spec.fields, spec.arrays)
    return WeightedEncoder(build_encoder(inner, layout), layout, spec.array("weights", (len(layout.tensors),)))


def _codec(state: CodecState, layout: Layout) -> WeightedCodec:
    inner = CodecState(state.value("inner", str), state.value("inner-version", int), state.fields, state.arrays)
    return WeightedCodec(codec_from_state(inner, layout), layout, state.array("weights", (len(layout.tensors),)))


register(KIND, VERSION, encoder=_encoder, codec=_codec)
