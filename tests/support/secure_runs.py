"""Rounds under secure aggregation, leg by leg: who is missing in which leg, and what every client had to hide."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message

from client_app import answer as masked_answer
from client_app import secure as masked_repair
from client_app.app import app
from common.config import RunConfig
from common.model.adapted import AdaptedModel
from common.secure.masks import Words, masked
from common.wire.records import TRAIN
from common.wire.secure import REPAIR
from server_app.rounds.round import Heard, OpenRound
from server_app.strategies.base import FederatedAdapter
from tests.support.grids import NamedGrid
from tests.support.tiny import Files, tiny_config, tiny_strategy

SECURE: dict[str, Any] = {
    "strategy.name": "random-projection",
    "privacy.epsilon": 0.0,
    "privacy.noise-multiplier": 1.0,
    "privacy.trust": "secure",
    "privacy.dropouts": 2,
    "data.evaluation": "",
}


class LegGrid(NamedGrid):
    """Nodes whose answers to one kind of message never come."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.missing: dict[str, frozenset[int]] = {}
        self.kinds: list[str] = []

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        asked = list(messages)
        self.kinds += {message.metadata.message_type for message in asked}
        return super().push_messages(asked)

    def answer(self, message: Message) -> Message | None:
        reply = super().answer(message)
        lost = message.metadata.dst_node_id in self.missing.get(message.metadata.message_type, ())
        return None if lost else reply


@dataclass
class Hidden:
    """What clients have masked, in the order in which they did: of answers, and of these once more in repairs."""

    answers: list[np.ndarray] = field(default_factory=list)
    repairs: list[np.ndarray] = field(default_factory=list)


@contextmanager
def overheard(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hidden]:
    """Listen inside of the clients, where no server can."""
    found = Hidden()

    def listening(kept: list[np.ndarray]) -> Callable[..., Words]:
        def listen(values: np.ndarray, masks: Words, bits: int) -> Words:
            kept.append(values.astype(np.int64))
            return masked(values, masks, bits)

        return listen

    with monkeypatch.context() as patch:
        patch.setattr(masked_answer, "masked", listening(found.answers))
        patch.setattr(masked_repair, "masked", listening(found.repairs))
        yield found


@dataclass
class SecureRun:
    """A strategy whose clients have their keys, and its grid."""

    strategy: FederatedAdapter
    grid: LegGrid
    seconds: float = 1e-9  # waited for replies: whoever is there has answered when it was asked

    @classmethod
    def of(cls, files: Files, folder: Path, adapted: AdaptedModel, **changes: Any) -> "SecureRun":
        config = tiny_config(files, folder, SECURE | changes)
        return cls.under(config, folder, adapted)

    @classmethod
    def under(cls, config: RunConfig, folder: Path, adapted: AdaptedModel) -> "SecureRun":
        grid = LegGrid(app, config.flat(), config.federation.num_clients)
        strategy = tiny_strategy(config, adapted, folder)
        strategy.state.codec = strategy.recipe.codec
        found = cls(strategy, grid)
        strategy._wait(grid, 1)
        return found

    def open(self, number: int) -> OpenRound:
        """Charge and configure."""
        self.strategy.account.charge_round(number)
        return self.strategy.configure(number, self.strategy.state.optimizer.adapter)

    def ask(self, messages: list[Message]) -> list[Message]:
        return self.strategy.ask(self.grid, messages, self.seconds)

    def hear(self, opened: OpenRound, replies: list[Message] | None = None) -> Heard:
        """All legs of a round."""
        assert self.strategy.secure is not None
        number = self.strategy.account.draw_number(opened.number)
        came = self.ask(opened.messages) if replies is None else replies
        return self.strategy.secure.hear(opened.instruction, number, came, self.ask)

    def without(self, first: Iterable[int], second: Iterable[int] = ()) -> "SecureRun":
        """Nodes that do not answer in the first leg, and of the others some that do not in the second."""
        self.grid.missing = {TRAIN: frozenset(first), REPAIR: frozenset(second)}
        return self
