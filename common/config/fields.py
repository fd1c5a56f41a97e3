"""What the sections are made of: their base class, numbers within limits and names of devices."""

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from common.privacy.bounds import LARGEST_BOUND, SMALLEST_BOUND


def _check_device(name: str) -> str:
    """Told without torch, which knows kinds that no model here was ever run on ("mps", "xpu", "meta")."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,2})?", name):
        raise ValueError(f'model.device = "{name}": not a device; give "auto", "cpu", "cuda" or "cuda:0"')
    return name


PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Factor = Annotated[float, Field(gt=0, le=3e38)]
"""What numbers in float32 are multiplied by, and so one itself."""
ClipNorm = Annotated[float, Field(ge=SMALLEST_BOUND, le=LARGEST_BOUND)]
LARGEST_SEED = 2**32 - 1
"""What every generator of random numbers takes that a run has."""
LARGEST_ROUNDS = 100_000
"""Beyond it solving for the noise takes minutes."""
LARGEST_CLIENTS = 1_000_000_000
"""Beyond it cohorts cannot be counted."""
Clients = Annotated[int, Field(ge=0, le=LARGEST_CLIENTS)]
Rounds = Annotated[int, Field(ge=1, le=LARGEST_ROUNDS)]
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
Device = Annotated[str, AfterValidator(_check_device)]
Name = Annotated[str, Field(min_length=1)]
Rate = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]


def kebab(name: str) -> str:
    """A field's name as its key is written."""
    return name.replace("_", "-")


class Section(BaseModel):
    """Frozen settings whose keys are written in kebab case; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, alias_generator=kebab, populate_by_name=True)
