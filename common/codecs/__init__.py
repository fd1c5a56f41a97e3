"""Codecs: what shrinks an adapter vector to a code. Importing this package registers every kind."""

from common.codecs.autoencoder import NeuralCodec, NeuralEncoder
from common.codecs.base import Codec, CodecState, Encoder, EncoderSpec, build_encoder, codec_from_state
from common.codecs.conv import CONV, conv_code_size
from common.codecs.dense import DENSE
from common.codecs.identity import IdentityCodec
from common.codecs.linear import LinearCodec, LinearEncoder
from common.codecs.statistics import GradientStatistics

__all__ = [
    "CONV",
    "DENSE",
    "Codec",
    "CodecState",
    "Encoder",
    "EncoderSpec",
    "GradientStatistics",
    "IdentityCodec",
    "LinearCodec",
    "LinearEncoder",
    "NeuralCodec",
    "NeuralEncoder",
    "build_encoder",
    "codec_from_state",
    "conv_code_size",
]
