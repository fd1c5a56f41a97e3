"""What strategies refuse of a configuration, before anything starts; imports nothing heavy."""

from common.config import RunConfig


def per_tensor_faults(config: RunConfig) -> list[str]:
    """What a strategy with a code refuses under the paper's mechanism, which clips every tensor by itself."""
    codec = config.codec
    apart = codec.kind == "identity" or (codec.kind, codec.form) == ("linear", "per-tensor")
    if config.privacy.mechanism != "printed" or apart:
        return []
    return [
        f'privacy.mechanism = "printed" with codec.kind = "{codec.kind}" and codec.form = "{codec.form}": the paper '
        'clips A and B of every layer apart, so set codec.form = "per-tensor"'
    ]


def dr_encoder_faults(config: RunConfig) -> list[str]:
    """Under the paper's mechanism stage 1 is in the clear."""
    if config.privacy.mechanism != "printed" or not config.stage_one.private:
        return per_tensor_faults(config)
    return [
        'privacy.mechanism = "printed" with stage-one.private = true: the paper sends stage 1 in the clear; set it to '
        "false",
        *per_tensor_faults(config),
    ]


def fedcg_faults(config: RunConfig) -> list[str]:
    """What contradicts a codec that is always learnt and mixes the tensors."""
    found = []
    if config.codec.kind == "identity":
        found.append('codec.kind = "identity": fedcg trains an AutoEncoder; set it to "conv" or "linear"')
    if config.privacy.mechanism == "printed":
        found.append('privacy.mechanism = "printed": it clips A and B of every layer apart; set it to "calibrated"')
    return [f'strategy.name = "fedcg" with {fault}' for fault in found]


def fedlpp_faults(config: RunConfig) -> list[str]:
    """Whole updates suit every mechanism; codes are as those of other strategies."""
    return per_tensor_faults(config) if config.fedlpp.compress else []
