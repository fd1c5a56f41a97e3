"""Controls of an experiment: a run in which, on purpose, less reaches the model than the clients sent.

``codes-zeroed`` gives the decoder zeros in place of the aggregated code: what the model then learns, the decoder knew
without the clients. ``no-update`` takes no step: what then changes, the evaluation did by itself. Everything else
(cohorts, messages, noise, charges) stays as it is, and the report says loudly what the run was. No key asks for one:
``dr-encoder compare`` passes it to ``run_federation``.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

Control = Literal["none", "codes-zeroed", "no-update"]
CONTROLS: tuple[Control, ...] = get_args(Control)


def controlled_code(control: Control, code: Tensor) -> Tensor:
    """The aggregated code (shape ``[k]``) that the decoder gets."""
    return torch.zeros_like(code) if control == "codes-zeroed" else code


def controlled_gradient(control: Control, gradient: Tensor) -> Tensor:
    """The decoded gradient (shape ``[n]``) that the step is taken with."""
    return torch.zeros_like(gradient) if control == "no-update" else gradient


def control_warning(control: Control) -> str:
    """What everybody who reads the report must know; ``""`` for a real run."""
    told = {
        "codes-zeroed": "the decoder got zeros in place of what the clients sent",
        "no-update": "no step was taken",
    }
    return f"CONTROL RUN, not a result: {told[control]} ({control})" if control in told else ""
