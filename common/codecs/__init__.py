"""Codecs: what shrinks an adapter vector to a code. Importing this package registers every kind."""

from common.codecs.autoencoder import NeuralCodec, NeuralEncoder
from common.codecs.base import Codec, CodecState, Encoder, EncoderSpec, build_encoder, codec_from_state
from common.codecs.conv import CONV, conv_code_size
from common.codecs.dense import DENSE
from common.codecs.history import HistoryCodec
from common.codecs.identity import IdentityCodec
from common.codecs.linear import LinearCodec, LinearEncoder
from common.codecs.rows import BlockRows, Rows, TangentRows, TuckerRows
from common.codecs.statistics import GradientStatistics
from common.codecs.subspace import SubspaceCodec

__all__ = [
    "CONV",
    "DENSE",
    "BlockRows",
    "Codec",
    "CodecState",
    "Encoder",
    "EncoderSpec",
    "GradientStatistics",
    "HistoryCodec",
    "IdentityCodec",
    "LinearCodec",
    "LinearEncoder",
    "NeuralCodec",
    "NeuralEncoder",
    "Rows",
    "SubspaceCodec",
    "TangentRows",
    "TuckerRows",
    "build_encoder",
    "codec_from_state",
    "conv_code_size",
]
