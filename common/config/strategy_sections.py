"""The sections that only some strategies read: what they ask of clients in stage 1, make codecs from, or broadcast."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from common.config.fields import (
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Rate,
    Section,
)

PROMPTS_PER_CLIENT = 3
"""Prompts of a pseudo-client of strategy public-prior."""


class PriorConfig(Section):
    """Training of a learned AutoEncoder on synthetic gradients (Algorithm 1, server side)."""

    steps: PositiveInt = Field(300, description="Adam steps")


class FedlppConfig(Section):
    """Quantization of what strategy fedlpp broadcasts: the proxy."""

    bits: Annotated[int, Field(ge=1, le=8)] = Field(2, description="fedlpp: bits w of a value in the broadcast proxy")
    rounding: Literal["nearest", "stochastic"] = Field(
        "nearest", description="fedlpp: to the nearest level, or at random without bias (by seed and round)"
    )


class PublicPriorConfig(Section):
    """The prior of strategy public-prior: directions of gradients on public prompts with sampled labels."""

    prompts: str = Field("self-generated", description="self-generated, template, or a file (JSONL, one text a line)")
    template: str = Field("", description='a prompt with {slots}; "" = that of the demo task')
    slots: str = Field("", description='template: TOML file with a list of words for every slot; "" = the demo\'s')
    pool: Annotated[int, Field(ge=PROMPTS_PER_CLIENT)] = Field(256, description="most prompts to have")
    pseudo_clients: PositiveInt = Field(256, description="pseudo-clients, each one gradient")
    refresh_every: PositiveInt = Field(
        5, description="rounds after which the prior is made anew from the released model"
    )
    form: Literal["full", "per-layer", "tucker"] = Field("full", description="principal directions of what")
    delivery: Literal["basis", "rebuild"] = Field(
        "basis", description="send the rows, or what a client needs to apply them through its own model"
    )
    whitening: Annotated[float, Field(ge=0, le=0.5)] = Field(
        0.25, description="rows are scaled by their energy to minus this power; 0 = all alike"
    )
    noise_floor: NonNegativeFloat = Field(
        4.0, description="rows fade out below this multiple of the noise energy of the whole run; 0 = none does"
    )

    @model_validator(mode="after")
    def _consistent(self) -> "PublicPriorConfig":
        if self.delivery == "rebuild" and self.form != "full":
            raise ValueError(
                f'public-prior.delivery = "rebuild" with public-prior.form = "{self.form}": one weight matrix rebuilds '
                'directions of whole gradients; set public-prior.form = "full"'
            )
        return self


class StageOneConfig(Section):
    """Stage 1: what a cohort releases once, before round 1, for the codec to be made of.

    dr-encoder: statistics of gradients for the random prior (Algorithm 1, client side). fedcg: the gradients themselves
    (TGAP).
    """

    private: bool = Field(True, description="release through the mechanism; false makes the end-to-end epsilon inf")
    sampling_rate: Rate = Field(0.1, description="probability that a client is asked")
    steps: PositiveInt = Field(4, description="local steps whose gradients are measured (fedcg: sent)")
    learning_rate: PositiveFloat = Field(0.5, description="size of these steps (A's gradient is 0 at B=0)")
    estimator: Literal["moment", "ema"] = Field(
        "moment", description="dr-encoder: per-element moments, or the paper's EMA"
    )
    clip_norm: Annotated[float, Field(gt=0, le=1e30)] = Field(
        1.0, description="fedcg: bound on the l2 norm of all gradients of one client together"
    )

    @property
    def variances(self) -> tuple[float, float]:
        """h1 and h2, the lowest and highest variance that the estimator gives; for ``ema`` the paper's."""
        return (1e-5, 1e-3) if self.estimator == "ema" else (1e-12, 1.0)
