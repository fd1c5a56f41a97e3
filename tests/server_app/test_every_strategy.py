"""What holds for every name in STRATEGIES and its options: bytes, restarts, controls, what a site may refuse."""

import json
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Message

from client_app.app import app as client_app
from common.config import RunConfig
from common.model.adapted import load_adapted_model
from common.wire.records import TRAIN, serialised_bytes
from server_app.privacy.ledger import Ledger
from server_app.rounds.cohort import FederationError
from server_app.rounds.controls import CONTROLS
from server_app.strategies import recipe_of
from tests.server_app.test_resume import REPEATABLE as PRIVATE
from tests.server_app.test_resume import killed_after, resumed
from tests.support.strategy_runs import NOISY, VARIANTS, Make
from tests.support.tiny import CLIENTS, Files, final_adapter, run_tiny, start, tiny_config
from workbench.simulation.in_process import InProcessGrid


class Scales(InProcessGrid):
    """Weighs every message of stage 2 as it is serialised: (round, bytes)."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__(client_app, config.flat(), CLIENTS)
        self.down: list[tuple[int, int]] = []
        self.up: list[tuple[int, int]] = []

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        asked = list(messages)
        self.down += [_weight(m, m) for m in asked if m.metadata.message_type == TRAIN]
        return super().push_messages(asked)

    def answer(self, message: Message) -> Message | None:
        reply = super().answer(message)
        if reply is not None and message.metadata.message_type == TRAIN:
            self.up.append(_weight(message, reply))
        return reply


def _weight(question: Message, message: Message) -> tuple[int, int]:
    return int(question.metadata.group_id), serialised_bytes(message.content)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_bytes_in_the_report_are_those_that_travelled(files: Files, tmp_path: Path, variant: str) -> None:
    config = tiny_config(files, tmp_path, {**PRIVATE, "prior.steps": 5, **VARIANTS[variant]})
    scales = Scales(config)
    folder = run_tiny(config, scales)
    rows = [row for row in folder.read_metrics() if row["round"]]
    for row in rows:
        assert row["bytes_down"] == sum(size for number, size in scales.down if number == row["round"])
        assert row["bytes_up"] == sum(size for number, size in scales.up if number == row["round"])
    assert sum(row["cohort"] for row in rows) == len(scales.down) == len(scales.up) > 0
    claimed = json.loads((folder.path / "report.json").read_text())["communication"]
    first = scales.down[0][0]
    assert {claimed["bytes_down_per_client_round"]} == {size for number, size in scales.down if number == first}
    assert {claimed["bytes_up_per_client_round"]} == {size for number, size in scales.up if number == first}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_resumed_run_ends_where_an_uninterrupted_one_ends(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variant: str
) -> None:
    config = tiny_config(files, tmp_path / "whole", {**PRIVATE, "prior.steps": 5, **VARIANTS[variant]})
    whole = run_tiny(config)
    config = RunConfig.parse(config.flat() | {"output.dir": str(tmp_path / "killed")})
    folder = killed_after(config, 2, monkeypatch)
    resumed(config, folder)
    assert torch.equal(final_adapter(folder), final_adapter(whole))
    assert Ledger(folder.ledger).charges == Ledger(whole.ledger).charges
    reports = [json.loads((each.path / "report.json").read_text()) for each in (folder, whole)]
    for key in ("outcome", "communication", "strategy"):
        one, other = ({name: untimed(value) for name, value in each[key].items()} for each in reports)
        assert one.keys() == other.keys()
        assert [name for name in one if one[name] != other[name] and "seconds" not in name] == []


def untimed(value: Any) -> Any:
    """A text without its times, which no two runs share."""
    return re.sub(r"[0-9.]+ m?s\b", "", value) if isinstance(value, str) else value


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "fedcg, private"])  # its stage 1 needs noise
def test_with_codes_zeroed_only_what_a_decoder_has_learnt_moves_the_model(
    files: Files, tmp_path: Path, variant: str, control: str
) -> None:
    changes = {"prior.steps": 5, "num-server-rounds": 1, **VARIANTS[variant], "server.control": control}
    config = tiny_config(files, tmp_path, changes)
    folder = run_tiny(config)
    adapted = load_adapted_model(config.model, config.lora, config.seed)
    learnt = recipe_of(config, adapted.layout).learned
    moved = not torch.equal(final_adapter(folder), adapted.initial)
    assert moved == (control == "none" or (control == "codes-zeroed" and learnt))
    assert json.loads((folder.path / "report.json").read_text())["run"]["control"] == control


class Refusals(InProcessGrid):
    """Keeps what every client said: why it refused, or "" for a release."""

    said: list[str]

    def answer(self, message: Message) -> Message | None:
        reply = super().answer(message)
        if reply is not None:
            self.said.append(reply.error.reason if reply.has_error() else "")
        return reply


@pytest.mark.parametrize(("key", "limit"), [("min-noise-multiplier", 9.0), ("max-clip-norm", 0.01)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_site_refuses_what_is_beyond_its_policy_whatever_the_strategy(
    make: Make, variant: str, key: str, limit: float
) -> None:
    """In stage 1 where there is one, else in the round; a limit on noise forbids anything in the clear, too."""
    strategy, grid = make({**NOISY, "prior.steps": 5, **VARIANTS[variant], "num-server-rounds": 1})
    grid.__class__ = Refusals
    grid.said = []  # type: ignore[attr-defined]
    for context in grid._contexts.values():
        context.node_config[key] = limit
    with suppress(FederationError):  # nobody answered stage 1
        start(strategy, grid)
    said = grid.said  # type: ignore[attr-defined]
    assert len(said) == CLIENTS
    in_the_clear = (strategy.config.strategy.name, strategy.config.fedcg.private) == ("fedcg", False)
    named = "allow-raw-gradients" if in_the_clear and key == "min-noise-multiplier" else f"{key} = {limit}"
    assert all("this site refuses" in reason and named in reason for reason in said)
