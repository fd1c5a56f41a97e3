"""Client 3 is sent instructions as the server sends them, and its reply read: a release or a refusal."""

from typing import Any

import numpy as np
import torch
from flwr.app import Message
from torch import Tensor

from client_app.local_update import local_update
from common.codecs import Codec, LinearCodec
from common.config import RunConfig
from common.data import private_tokens
from common.model.adapted import AdaptedModel
from common.privacy.clipping import clip
from common.privacy.mechanism import ReleaseTerms, Trust
from common.wire.assignment import Task
from common.wire.digest import app_digest
from common.wire.records import TRAIN, pack_instruction, unpack_release
from tests.support.tiny import CLIENTS
from workbench.simulation.in_process import InProcessGrid

ROUND = 2


def terms(size: int, noise: float, trust: Trust = "local", clip_norm: float = 1.0, shares: int = 4) -> ReleaseTerms:
    return ReleaseTerms(size, clip_norm, noise, trust, shares, normalize=True)


def ask(
    grid: InProcessGrid, adapter: Tensor, codec: Codec, agreed: ReleaseTerms, kind: str = TRAIN, **changes: Any
) -> Message:
    stage_one = {"steps": 2, "learning_rate": 0.5} if kind != TRAIN else {}
    task = Task(**{"round": ROUND, "terms": agreed, "code_digest": app_digest(), **stage_one, **changes})
    content = pack_instruction(adapter, codec.spec(), task)
    return grid.send_and_receive([Message(content=content, dst_node_id=3, message_type=kind, ttl=60.0)])[0]


def answer(reply: Message, agreed: ReleaseTerms, round_index: int = ROUND) -> Tensor:
    """What was released, in code units."""
    values = unpack_release(reply.content, round_index, agreed)
    return torch.from_numpy(values.astype(np.float64)) * (agreed.grid_step or 1.0)


def plain_code(adapted: AdaptedModel, config: RunConfig, codec: Codec) -> Tensor:
    """Encode, then clip: client 3 is partition 2."""
    tokens = private_tokens(config.data, adapted.tokenizer, 2, CLIENTS, config.seed)
    gradient = local_update(adapted, adapted.initial, tokens, config.train, seed=0)
    return clip(codec.encode(gradient), 1.0, normalize=True).values.double()


def refusal(grid: InProcessGrid, adapted: AdaptedModel, agreed: ReleaseTerms, **changes: Any) -> str:
    reply = ask(grid, adapted.initial, LinearCodec.of_form(adapted.layout, 64, 1), agreed, **changes)
    return reply.error.reason if reply.has_error() else ""
