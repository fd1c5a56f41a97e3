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

PROMPTS_PER_CLIENT, FEWEST_IN_POOL = 3, 256
"""Of strategy public-prior: prompts of a pseudo-client, and the size of the pool with few pseudo-clients."""
SELF_GENERATED, TEMPLATE = "self-generated", "template"
"""Values of ``public-prior.prompts`` that name no file."""


class FedlppConfig(Section):
    """Quantization of what strategy fedlpp broadcasts: the proxy."""

    bits: Annotated[int, Field(ge=1, le=8)] = Field(2, description="fedlpp: bits w of a value in the broadcast proxy")
    rounding: Literal["nearest", "stochastic"] = Field(
        "nearest", description="fedlpp: to the nearest level, or at random without bias (by seed and round)"
    )


class PublicPriorConfig(Section):
    """The prior of strategy public-prior: directions of gradients on public prompts with sampled labels."""

    prompts: str = Field(
        SELF_GENERATED,
        description="self-generated; template = filled with the demo's words; a TOML file with a list of words for "
        "every slot of the template; or a file of prompts, one text a line or JSONL",
    )
    template: str = Field("", description='a prompt with {slots}; "" = that of the demo task')
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

    @property
    def pool(self) -> int:
        """Most prompts to have: one for each pseudo-client, and not fewer than by default."""
        return max(FEWEST_IN_POOL, self.pseudo_clients)

    @property
    def names_file(self) -> bool:
        """Whether ``prompts`` names a file, of prompts or of words."""
        return self.prompts not in (SELF_GENERATED, TEMPLATE)

    @property
    def fills_template(self) -> bool:
        """Whether the prompts are the template with words in its slots."""
        return self.prompts == TEMPLATE or self.names_words

    @property
    def names_words(self) -> bool:
        """Whether ``prompts`` names a file of words for the template's slots."""
        return self.names_file and self.prompts.lower().endswith(".toml")

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
