"""A cohort played by a few of its clients: nothing but the sampling of clients is another."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Message
from torch import Tensor

from client_app import app as client_module
from client_app.answer import Asked
from client_app.app import app as client_app
from client_app.app import gradient_of, make_app
from common.config import ConfigError, RunConfig
from common.data import TokenizedExamples
from common.model.adapted import load_adapted_model
from server_app.rounds.state import pack_adapter
from tests.support.tiny import CLIENTS, Files, tiny_config, tiny_strategy
from workbench.compare.played import PlayedGrid
from workbench.simulation.in_process import InProcessGrid

pytestmark = pytest.mark.usefixtures("seeded")

NOISY: dict[str, Any] = {
    "strategy.name": "lora",
    "num-server-rounds": 1,
    "server.learning-rate": 1.0,
    "privacy.epsilon": 2.0,
    "privacy.trust": "central",
}
CLEAR = NOISY | {"privacy.epsilon": float("inf")}


def moved(config: RunConfig, grid: InProcessGrid, folder: Path) -> tuple[Tensor, int]:
    """How far a run has moved the adapter (shape ``[n]``), and how many clients have replied in its last round."""
    folder.mkdir(parents=True)
    adapted = load_adapted_model(config.model, config.lora, config.seed)
    strategy = tiny_strategy(config, adapted, folder)
    start = strategy.state.optimizer.adapter
    strategy.start(grid, pack_adapter(start), num_rounds=config.num_server_rounds, timeout=60.0)
    return strategy.state.optimizer.adapter - start, strategy.rounds[-1].replies  # type: ignore[attr-defined]


def size_of_adapter(files: Files, folder: Path) -> int:
    config = tiny_config(files, folder)
    return load_adapted_model(config.model, config.lora, config.seed).layout.size


def played(files: Files, folder: Path, keys: dict[str, Any], players: int) -> tuple[Tensor, int]:
    config = tiny_config(files, folder, keys)
    return moved(config, PlayedGrid(client_app, config, players), folder / f"{players}")


@pytest.mark.parametrize("strategy", ["lora", "dr-encoder", "fedlpp"])
def test_a_cohort_that_all_its_clients_play_is_the_cohort(files: Files, tmp_path: Path, strategy: str) -> None:
    keys = NOISY | {"strategy.name": strategy, "num-server-rounds": 2}
    config = tiny_config(files, tmp_path, keys)
    whole, _ = moved(config, InProcessGrid(client_app, config.flat(), CLIENTS), tmp_path / "whole")
    other, replies = played(files, tmp_path / "played", keys, CLIENTS)
    assert replies == CLIENTS
    assert torch.equal(whole, other)


@pytest.mark.parametrize("players", [1, 2, 4])
def test_the_noise_is_that_of_the_whole_cohort_whoever_plays_it(files: Files, tmp_path: Path, players: int) -> None:
    noise = {}
    for number in (players, CLIENTS):
        noisy, replies = played(files, tmp_path / f"noisy-{number}", NOISY, number)
        clear, _ = played(files, tmp_path / f"clear-{number}", CLEAR, number)
        assert replies == CLIENTS
        noise[number] = noisy - clear
    assert noise[CLIENTS].norm() > 1  # far above the rounding of the codes to the integer grid
    assert (noise[players] - noise[CLIENTS]).norm() < 0.01 * noise[CLIENTS].norm()


def test_a_few_players_stand_for_as_many_clients_each_and_others_play_the_next_round(
    files: Files, tmp_path: Path
) -> None:
    asked: list[list[int]] = []
    heard: list[Counter[bytes]] = []

    def noted(instruction: Asked, examples: TokenizedExamples) -> Tensor:
        asked[-1].append(instruction.site.partition)
        return gradient_of(instruction, examples)

    class Listening(PlayedGrid):
        def push_messages(self, messages: Any) -> list[str]:
            asked.append([])
            return super().push_messages(messages)

        def pull_messages(self, message_ids: Any) -> list[Message]:
            replies = super().pull_messages(message_ids)
            heard.append(Counter(str(reply.content).encode() for reply in replies))
            return replies

    config = tiny_config(files, tmp_path, CLEAR | {"num-server-rounds": 4})
    moved(config, Listening(make_app(noted), config, 4), tmp_path / "run")
    assert [len(set(players)) for players in asked] == [4] * 4
    assert len({tuple(sorted(players)) for players in asked}) > 1
    assert [sorted(counts.values()) for counts in heard] == [[1, 1, 2, 2]] * 4


def test_clients_that_hold_the_same_are_played_without_any_difference(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gradient = torch.randn(size_of_adapter(files, tmp_path), generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(client_module, "local_update", lambda *_: gradient)
    one, _ = played(files, tmp_path / "one", CLEAR, 1)
    whole, _ = played(files, tmp_path / "whole", CLEAR, CLIENTS)
    assert (one - whole).norm() < 1e-5 * whole.norm()


def test_a_player_that_fails_fails_for_all_that_it_stands_for(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Tensor:
        raise RuntimeError("no memory")

    monkeypatch.setattr(client_module, "local_update", broken)
    distance, replies = played(files, tmp_path, CLEAR, 2)
    assert replies == 0
    assert not distance.any()


def test_messages_that_carry_noise_cannot_be_copied(files: Files, tmp_path: Path) -> None:
    config = tiny_config(files, tmp_path, NOISY | {"privacy.trust": "distributed"})
    with pytest.raises(ConfigError, match=r'privacy.trust = "distributed".*"central"'):
        PlayedGrid(client_app, config, 2)
