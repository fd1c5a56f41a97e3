"""Checkpoints: after every round, atomically, safetensors and JSON; a crash leaves the previous one intact.

``checkpoint/latest`` names the folder of the last complete checkpoint and is replaced in one rename;
``checkpoint/ended`` says that there is nothing left to continue. No file here tells a cohort or lets one be drawn
again: amplification by sampling holds only while cohorts are secret.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from common.adapter import Layout
from common.codecs.base import Codec, CodecState, codec_from_state
from common.config import Scalar, ServerConfig
from common.wire.sums import joined, split_sums
from server_app.errors import CommandError
from server_app.results.checkpoint_files import (
    CLIENTS_ARE,
    ENDED,
    LATEST,
    STATE,
    TENSORS,
    last_checkpoint,
    read_state,
)
from server_app.results.resuming import Clients, why_not_resumable
from server_app.rounds.divergence import Best
from server_app.rounds.state import RunState, StageOneTraffic, optimizer_of

_CODEC = "codec."
_BEST, _SUMS = "best", "sums"


class CheckpointError(CommandError):
    """A checkpoint is missing or does not belong to this run; the message says which and why."""


@dataclass(frozen=True)
class Progress:
    """What a checkpoint says besides the strategy's state.

    ``configuration``: flat, as the run was planned. ``clients_are``: simulated or deployed, for none but them go on.
    """

    elapsed: float
    ledger_head: str
    clients: int
    configuration: Mapping[str, Scalar] = field(default_factory=dict)
    clients_are: Clients = "simulated"


def save_checkpoint(folder: Path, state: RunState, progress: Progress) -> None:
    """Write the state after ``state.round``, then point ``latest`` at it and drop older ones."""
    target = folder / f"round-{state.round:06d}"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    codec = _codec_of(state).state()
    tensors = state.optimizer.tensors() | {f"{_CODEC}{name}": value for name, value in codec.arrays.items()}
    if state.best is not None:
        tensors[_BEST] = state.best.adapter
    if not state.diverged:
        tensors[_SUMS] = torch.tensor(list(joined(state.sums)), dtype=torch.uint8)
    save_file({name: value.contiguous().clone() for name, value in tensors.items()}, target / TENSORS)
    payload = {
        "round": state.round,
        "failed-in-a-row": state.failed_in_a_row,
        "diverged": state.diverged,
        "base-loss": state.base_loss,
        "best": {"loss": state.best.loss, "round": state.best.round} if state.best is not None else None,
        "prior": dict(state.prior),
        "stage-one": asdict(state.stage_one) if state.stage_one else {},
        "codec": {"kind": codec.kind, "version": codec.version, "fields": dict(codec.fields)},
        "elapsed": progress.elapsed,
        "ledger-head": progress.ledger_head,
        "clients": progress.clients,
        CLIENTS_ARE: progress.clients_are,
        "configuration": dict(progress.configuration),
    }
    _write_durably(target / STATE, json.dumps(payload))
    _sync(target / TENSORS)
    _write_durably(folder / f"{LATEST}.new", target.name)
    (folder / f"{LATEST}.new").replace(folder / LATEST)
    for old in folder.glob("round-*"):
        if old != target:
            shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(folder: Path, server: ServerConfig, layout: Layout) -> tuple[RunState, Progress]:
    """Read the last complete checkpoint of a run folder's ``checkpoint`` directory."""
    why = why_not_resumable(folder.parent)
    if why:
        raise CheckpointError(f'resume = "{folder.parent}": {why}')
    source = last_checkpoint(folder)
    payload = read_state(source / STATE)
    tensors = load_file(source / TENSORS)
    if tensors["adapter"].shape != (layout.size,):
        raise CheckpointError(
            f'resume = "{folder.parent}": its adapter has {len(tensors["adapter"])} values, this configuration makes '
            f"{layout.size}: resume with the model and lora settings of its config.toml"
        )
    optimizer = optimizer_of(server, tensors["adapter"])
    optimizer.restore({name: value for name, value in tensors.items() if not name.startswith(_CODEC)})
    state = RunState(
        optimizer=optimizer,
        codec=_load_codec(payload["codec"], tensors, layout),
        round=payload["round"],
        failed_in_a_row=payload["failed-in-a-row"],
        base_loss=payload["base-loss"],
        best=Best(tensors[_BEST], **payload["best"]) if payload["best"] else None,
        prior=payload["prior"],
        stage_one=StageOneTraffic(**payload["stage-one"]) if payload["stage-one"] else None,
        sums=split_sums(tensors[_SUMS].numpy().tobytes()) if _SUMS in tensors else [],
        diverged=payload["diverged"],
    )
    return state, Progress(payload["elapsed"], payload["ledger-head"], payload["clients"])


def mark_ended(folder: Path) -> None:
    """The run has its results: it is not to be continued, however its last checkpoint looks."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_durably(folder / ENDED, "")


def _load_codec(described: dict[str, Any], tensors: dict[str, Tensor], layout: Layout) -> Codec:
    arrays = {name.removeprefix(_CODEC): value for name, value in tensors.items() if name.startswith(_CODEC)}
    return codec_from_state(CodecState(described["kind"], described["version"], described["fields"], arrays), layout)


def _codec_of(state: RunState) -> Codec:
    if state.codec is None:
        raise CheckpointError("there is no codec to save before stage 1 has ended")
    return state.codec


def _write_durably(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    _sync(path)


def _sync(path: Path) -> None:
    with path.open("rb+") as handle:
        os.fsync(handle.fileno())
