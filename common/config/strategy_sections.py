"""The sections that only some strategies read: what they ask of clients in stage 1, or broadcast."""

from typing import Annotated, Literal

from pydantic import Field

from common.config.fields import (
    ClipNorm,
    Factor,
    PositiveInt,
    Rate,
    Section,
)


class FedlppConfig(Section):
    """Quantization of what strategy fedlpp broadcasts: the proxy."""

    bits: Annotated[int, Field(ge=1, le=8)] = Field(2, description="fedlpp: bits w of a value in the broadcast proxy")
    rounding: Literal["nearest", "stochastic"] = Field(
        "nearest", description="fedlpp: to the nearest level, or at random without bias (by seed and round)"
    )


class StageOneConfig(Section):
    """Stage 1: what a cohort releases once, before round 1, for the codec to be made of.

    dr-encoder: statistics of gradients for the random prior (Algorithm 1, client side). fedcg: the gradients themselves
    (TGAP).
    """

    private: bool = Field(True, description="release through the mechanism; false makes the end-to-end epsilon inf")
    sampling_rate: Rate = Field(0.1, description="probability that a client is asked")
    steps: PositiveInt = Field(4, description="local steps whose gradients are measured (fedcg: sent)")
    learning_rate: Factor = Field(0.5, description="size of these steps (A's gradient is 0 at B=0)")
    estimator: Literal["moment", "ema"] = Field(
        "moment", description="dr-encoder: per-element moments, or the paper's EMA"
    )
    clip_norm: ClipNorm = Field(1.0, description="fedcg: bound on the l2 norm of all gradients of one client together")

    @property
    def variances(self) -> tuple[float, float]:
        """h1 and h2, the lowest and highest variance that the estimator gives; for ``ema`` the paper's."""
        return (1e-5, 1e-3) if self.estimator == "ema" else (1e-12, 1.0)
