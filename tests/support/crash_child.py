"""A process that runs a tiny federation and kills itself, as the kernel would, at a named moment.

What a client lets out is written to a log of its own, on disk before the server sees it: the ledger is held against it.
"""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import torch
from flwr.app import Message

from common.config import RunConfig
from common.privacy import accounting
from common.wire.records import RELEASE, round_of
from server_app import session
from server_app.privacy import ledger
from server_app.privacy.account import PrivacyAccount
from server_app.results import checkpoints, report
from server_app.strategies.base import FederatedAdapter
from tests.support.messages import Reader
from tests.support.tiny import CLIENTS, run_tiny
from workbench.simulation.in_process import InProcessGrid

ROUND = 2  # the round of stage 2 in which to die


def die() -> None:
    """Now, with no clean-up of any kind."""
    os.kill(os.getpid(), signal.SIGKILL)


def main(flat: dict[str, Any], log: Path, moment: str) -> None:
    """Run to the end, or to the moment in ``MOMENTS`` (``""``: none)."""
    torch.set_num_threads(1)
    datasets.config.HF_DATASETS_CACHE = log.parent / "datasets"
    spare_time()
    log_releases(log)
    if moment:
        MOMENTS[moment]()
    run_tiny(RunConfig.parse(flat))


def spare_time() -> None:
    """Leave out what is slow at the end of a run and beside the point: plots and the second accountant."""

    def unavailable(*_: object, **__: object) -> None:
        raise accounting.CrossCheckUnavailable("left out by the test")

    report.draw_plots = lambda *_: None
    report.html = lambda *_: ""
    accounting.prv_bounds = unavailable  # type: ignore[assignment]


def log_releases(path: Path) -> None:
    """One line for every release that leaves a client: round, node, noise of the message."""
    original, read = InProcessGrid.answer, Reader()

    def answer(grid: InProcessGrid, message: Message) -> Message | None:
        reply = original(grid, message)
        task = read(message.content).task
        if reply is not None and not reply.has_error() and RELEASE in reply.content:
            noise = task.terms.message_noise_multiplier
            line = {"round": task.round, "node": message.metadata.dst_node_id, "noise": noise}
            with path.open("a", encoding="utf-8") as handle:
                handle.write(json.dumps(line) + "\n")
                handle.flush()
                os.fsync(handle.fileno())
        return reply

    InProcessGrid.answer = answer  # type: ignore[method-assign]


def around(
    owner: Any,
    name: str,
    *,
    before: Callable[..., bool] = lambda *_: False,
    after: Callable[..., bool] = lambda *_: False,
) -> None:
    """Die before or after a call for whose arguments the predicate is true."""
    original = getattr(owner, name)

    def call(*arguments: Any, **named: Any) -> Any:
        if before(*arguments):
            die()
        result = original(*arguments, **named)
        if after(*arguments):
            die()
        return result

    setattr(owner, name, call)


def in_round(_: object, server_round: int) -> bool:
    """Whether a charge is that of the round to die in."""
    return server_round == ROUND


def asking(number: int) -> Callable[..., bool]:
    """Whether the messages that are asked belong to a round (0: stage 1)."""
    return lambda _strategy, _grid, messages, _timeout: round_of(messages[0]) == number


def half_answered() -> Callable[..., bool]:
    """Whether it is the answer with which half of the cohort has answered in the round to die in."""
    answered: list[int] = []

    def is_last(_: object, message: Message) -> bool:
        answered.append(round_of(message))
        return answered.count(ROUND) == CLIENTS // 2

    return is_last


def saving(_: object, state: Any, __: object) -> bool:
    """Whether a checkpoint is that of the round to die in."""
    return state.round == ROUND


def tear_ledger() -> None:
    """Die with half of the round's line in the ledger."""

    def write(descriptor: int, data: bytes) -> None:
        if json.loads(data)["round"] == ROUND:
            os.write(descriptor, data[: len(data) // 2])
            os.fsync(descriptor)
            die()
        os.write(descriptor, data)

    ledger._write_all = write  # type: ignore[assignment]


def writing(name: str) -> Callable[..., bool]:
    """Whether the durable file that is written is one of the checkpoint of the round to die in."""
    return lambda path, text: f"{path.parent.name}/{path.name}" == name or (path.name == name and text.endswith("2"))


MOMENTS: dict[str, Callable[[], None]] = {
    "before the charge of stage 1": lambda: around(PrivacyAccount, "charge_stage_one", before=lambda _: True),
    "after the charge of stage 1": lambda: around(PrivacyAccount, "charge_stage_one", after=lambda _: True),
    "after the replies of stage 1": lambda: around(FederatedAdapter, "ask", after=asking(0)),
    "within the line of a round's charge": tear_ledger,
    "after a round's charge": lambda: around(PrivacyAccount, "charge_round", after=in_round),
    "after half of a round's replies": lambda: around(InProcessGrid, "answer", after=half_answered()),
    "after a round's replies": lambda: around(FederatedAdapter, "ask", after=asking(ROUND)),
    "within a checkpoint": lambda: around(checkpoints, "_write_durably", before=writing("round-000002/state.json")),
    "before a checkpoint counts": lambda: around(checkpoints, "_write_durably", after=writing("latest.new")),
    "after a checkpoint": lambda: around(session, "save_checkpoint", after=lambda _, state, __: state.round == ROUND),
}
"""The moments of one run, in their order."""
