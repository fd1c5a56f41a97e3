"""Stage 1 as the privacy plan must pay for it, and what to say when it may well ask nobody."""

import math
from dataclasses import dataclass

from common.config import StageOneConfig
from common.counts import count

_RARELY = 0.01  # an empty stage 1 is accepted when it is no more probable


@dataclass(frozen=True)
class StageOne:
    """What a strategy asks of clients before round 1, as the plan must pay for it.

    ``label``: of its charge. ``reason``: why epsilon is inf when it is not ``private``. ``size``, ``open_size``: values
    of one client's release with noise, and in the clear. ``clip_norm``: bound on the whole of a private one. ``share``:
    of every client's examples, which only stage 1 uses; 0 where the rounds use all of them too. ``steps``,
    ``learning_rate``: local steps, of each of which a client measures the gradient, and their size.
    """

    label: str
    sampling_rate: float
    private: bool
    reason: str
    size: int
    open_size: int
    clip_norm: float = 1.0
    share: float = 0.0
    steps: int = 1
    learning_rate: float = 0.0


def statistics_stage(section: StageOneConfig, size: int, *, open_size: int = 1, clip_norm: float = 1.0) -> StageOne:
    """Algorithm 1's stage 1: gradient statistics, a code of ``size`` values when they are private."""
    return StageOne(
        label="stage 1: statistics",
        sampling_rate=section.sampling_rate,
        private=section.private,
        reason="stage-one.private = false: stage 1 sends gradient statistics without noise",
        size=size,
        open_size=open_size,
        clip_norm=clip_norm,
        steps=section.steps,
        learning_rate=section.learning_rate,
    )


def empty_rounds(rate: float, clients: int) -> str:
    """What to say when a round is likelier to ask nobody than somebody, (1 - p)^M; else ``""``.

    A matter of public numbers: who *was* asked stays unsaid.
    """
    chance = (1 - rate) ** clients
    if chance <= 0.5:
        return ""
    return (
        f"privacy.sampling-rate = {rate:g} with {count(clients, 'client')}: a round asks nobody with probability "
        f"{chance:.2g}, and noise alone then moves the model; raise it"
    )


def empty_stage_one(stage: StageOne | None, clients: int, *, noisy: bool) -> str:
    """What to say when stage 1 asks nobody with a probability above 1 %, (1 - q)^M; else ``""``.

    ``noisy``: whether it releases with noise, so that an empty cohort is not an error.
    """
    if stage is None:
        return ""
    chance = (1 - stage.sampling_rate) ** clients
    if chance <= _RARELY:
        return ""
    enough = math.ceil(1000 * (1 - _RARELY ** (1 / clients))) / 1000
    what = "its codec is then made of noise" if noisy else "it then fails"
    return (
        f"stage-one.sampling-rate = {stage.sampling_rate:g} with {count(clients, 'client')}: stage 1 of a run asks "
        f"nobody with probability {chance:.2g}, and {what}; {enough:g} makes that rarer than {_RARELY:g}"
    )
