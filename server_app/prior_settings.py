"""What the configuration says about the codec, checked against the adapter it is for."""

from common.adapter import Layout
from common.config import ConfigError, RunConfig
from server_app.prior import PriorSettings


def prior_settings(config: RunConfig, layout: Layout) -> PriorSettings:
    """Settings of Algorithm 1's server side; raises ``ConfigError`` when the code cannot fit the adapter."""
    codec, prior = config.codec, config.prior
    if codec.kind == "linear" and codec.size > layout.size:
        raise ConfigError(
            f"codec.size = {codec.size}: larger than the adapter, which has {layout.size} values (lora.rank, "
            "lora.target-modules); a code must be smaller than what it encodes"
        )
    try:
        return PriorSettings(
            kind=codec.kind,
            form=codec.form,
            size=codec.size,
            seed=config.seed,
            steps=prior.steps,
            batch_size=prior.batch_size,
            learning_rate=prior.learning_rate,
            depth=codec.depth,
            transform=codec.transform,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
