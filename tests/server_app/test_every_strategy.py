"""What holds for every name in STRATEGIES: bytes as the report claims, the same end after a restart."""

import json
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from flwr.app import Message

from client_app.app import app as client_app
from common.config import RunConfig
from common.privacy.ledger import Ledger
from common.wire import TRAIN, serialised_bytes
from server_app.in_process import InProcessGrid
from server_app.strategies import STRATEGIES
from tests.server_app.test_resume import REPEATABLE as PRIVATE
from tests.server_app.test_resume import killed_after, resumed
from tests.tiny import CLIENTS, Files, final_adapter, run_tiny, tiny_config


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


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_bytes_in_the_report_are_those_that_travelled(files: Files, tmp_path: Path, name: str) -> None:
    config = tiny_config(files, tmp_path, {**PRIVATE, "strategy.name": name})
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


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_resumed_run_ends_where_an_uninterrupted_one_ends(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    config = tiny_config(files, tmp_path / "whole", {**PRIVATE, "strategy.name": name})
    whole = run_tiny(config)
    config = RunConfig.parse(config.flat() | {"output.dir": str(tmp_path / "killed")})
    folder = killed_after(config, 2, monkeypatch)
    resumed(config, folder)
    assert torch.equal(final_adapter(folder), final_adapter(whole))
    assert Ledger(folder.ledger).charges == Ledger(whole.ledger).charges
    reports = [json.loads((each.path / "report.json").read_text()) for each in (folder, whole)]
    for key in ("outcome", "communication", "strategy"):
        one, other = ({name: value for name, value in each[key].items() if "seconds" not in name} for each in reports)
        assert one == other
