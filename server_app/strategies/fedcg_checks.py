"""What strategy fedcg refuses of a configuration, before anything starts; imports nothing heavy."""

from common.config import RunConfig


def faults(config: RunConfig) -> list[str]:
    """What contradicts a codec that is always learnt and mixes the tensors."""
    if config.codec.kind != "identity":
        return []
    what = 'strategy.name = "fedcg" with codec.kind = "identity"'
    return [f'{what}: fedcg trains an AutoEncoder; set it to "conv" or "linear"']
