"""What ``dr-encoder budget`` is asked, and whether it can be answered; imports nothing heavy."""

import math
from dataclasses import dataclass
from typing import Literal

from common.config import LARGEST_EPSILON, LARGEST_ROUNDS, ConfigError, RunConfig, Scalar
from common.privacy.delta import check_delta

Trust = Literal["central", "distributed", "local", "secure"]
Accountant = Literal["pld", "prv", "rdp", "gdp"]

_OPTIONS = {
    "privacy.statistics-share": "--statistics-share",
    "stage-one.sampling-rate": "--statistics-rate",
    "privacy.sampling-rate": "--sampling-rate",
    "privacy.noise-multiplier": "--noise-multiplier",
    "privacy.epsilon": "--epsilon",
    "privacy.delta": "--delta",
    "federation.num-clients": "--clients",
    "evaluation.private": "--evaluation-share",
    "evaluation.every": "--evaluation-every",
    "privacy.trust": "--trust",
    "privacy.colluders": "--colluders",
    "privacy.dropouts": "--dropouts",
    "num-server-rounds": "--rounds",
    "The run configuration is": "The options are",
}

_LARGEST_CODE = 10**12  # values; no adapter has as many


@dataclass(frozen=True)
class BudgetRequest:
    """What is given: two of ``epsilon``, ``noise_multiplier`` (over the clip norm) and ``rounds``, and the terms.

    ``delta``: ``None`` for 1/(10 M). ``statistics_share``: part of epsilon for stage 1; 0: no stage 1. Where the noise
    is given, stage 1 has twice that noise, as in a run. ``statistics_rate``: ``None`` for ``sampling_rate``.
    ``code_values``: of either stage; they move nothing but the part of delta that is set aside for discrete noise.
    ``colluders``: clients that subtract their own noise shares; the others then add more. ``dropouts``: clients that a
    round under secure aggregation may lack, whose shares are not counted on either. ``evaluation_share``: part of
    epsilon for private evaluations, every ``evaluation_every`` rounds, of the base model and after the last round; 0:
    none. ``check``: ask PRV, which takes seconds.
    """

    clients: int
    sampling_rate: float
    delta: float | None = None
    epsilon: float | None = None
    noise_multiplier: float | None = None
    rounds: int | None = None
    statistics_share: float = 0.0
    statistics_rate: float | None = None
    trust: Trust = "distributed"
    accountant: Accountant = "pld"
    code_values: int = 256
    colluders: int = 1
    dropouts: int = 1
    evaluation_share: float = 0.0
    evaluation_every: int = 1
    check: bool = True

    @property
    def rounds_within(self) -> float:
        """The epsilon that limits the rounds: where the noise is given too; else 0, no limit."""
        return (self.epsilon or 0.0) if self.noise_multiplier is not None else 0.0

    @property
    def solved(self) -> str:
        """The one that is not given."""
        return next(name for name in ("epsilon", "noise_multiplier", "rounds") if getattr(self, name) is None)


def check_request(request: BudgetRequest) -> None:
    """Refuse what is not two of the three, and values that no run could have; raises ``ConfigError``."""
    given = {
        "--epsilon": request.epsilon,
        "--noise-multiplier": request.noise_multiplier,
        "--rounds": request.rounds,
    }
    named = [f"{option} {value:g}" for option, value in given.items() if value is not None]
    if len(named) != 2:
        raise ConfigError(f"give two of {', '.join(given)}, not {', '.join(named) or 'none'}: the third is solved")
    for option, value in (given | {"--delta": request.delta}).items():
        if value is not None and not 0 < value < math.inf:
            raise ConfigError(f"{option} = {value:g}: must be above 0 and finite")
    if request.statistics_rate is not None and not request.statistics_share:
        raise ConfigError(f"--statistics-rate = {request.statistics_rate:g}: give --statistics-share too, say 0.1")
    if request.code_values > _LARGEST_CODE:
        raise ConfigError(f"--code-values = {request.code_values:,}: {_LARGEST_CODE:,} is the most")
    if request.colluders > 1 and request.trust not in ("distributed", "secure"):
        raise ConfigError(
            f"--colluders = {request.colluders}: no effect with --trust {request.trust}, where no noise is shared; "
            "leave it out"
        )
    if request.dropouts != 1 and request.trust != "secure":
        raise ConfigError(f"--dropouts = {request.dropouts}: no effect without --trust secure; leave it out")
    if request.evaluation_every != 1 and not request.evaluation_share:
        raise ConfigError(f"--evaluation-every = {request.evaluation_every}: give --evaluation-share too, say 0.1")
    if request.evaluation_share and request.rounds is None:
        raise ConfigError(
            f"--evaluation-share = {request.evaluation_share:g} without --rounds: how many evaluations there are "
            "follows from the rounds; give --rounds"
        )
    if request.epsilon and request.epsilon > LARGEST_EPSILON:
        raise ConfigError(
            f"--epsilon = {request.epsilon:g}: nothing above {LARGEST_EPSILON:g} is claimed; ask for less"
        )
    if request.accountant == "prv" and not request.check:
        raise ConfigError("--accountant prv with --no-check: PRV is the check; leave one of them out")


def config_of(request: BudgetRequest) -> RunConfig:
    """The configuration of a run of these terms.

    Raises ``ConfigError``, in terms of the command's options, for what is out of range or contradictory.
    """
    check_request(request)
    try:
        if request.delta is not None:
            check_delta(request.delta, request.clients)
        return RunConfig.parse(_flat(request))
    except ConfigError as error:
        raise ConfigError(as_options(str(error))) from None
    except ValueError as error:
        raise ConfigError(f"--delta = {request.delta:g}: {error}; left out: 1/(10 M)") from None


def _flat(request: BudgetRequest) -> dict[str, Scalar]:
    by_noise = request.noise_multiplier is not None
    flat: dict[str, Scalar] = {
        "num-server-rounds": request.rounds or LARGEST_ROUNDS,
        "federation.num-clients": request.clients,
        "privacy.epsilon": 0.0 if by_noise else request.epsilon or 0.0,
        "privacy.noise-multiplier": request.noise_multiplier or 0.0,
        "privacy.delta": request.delta or 0.0,
        "privacy.trust": request.trust,
        "privacy.colluders": request.colluders,
        "privacy.dropouts": request.dropouts,
        "privacy.sampling-rate": request.sampling_rate,
        "evaluation.private": request.evaluation_share,
        "evaluation.every": request.evaluation_every,
    }
    if request.statistics_share:
        rate = request.statistics_rate
        flat["privacy.statistics-share"] = request.statistics_share
        flat["stage-one.sampling-rate"] = request.sampling_rate if rate is None else rate
    return flat


def as_options(text: str) -> str:
    """A message about keys as one about the command's options."""
    for key, option in _OPTIONS.items():
        text = text.replace(key, option)
    return text
