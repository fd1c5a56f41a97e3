"""Secure aggregation through the app's own messages: the sum of who answered and nothing else, or a lost round."""

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from client_app.seat import RECORD
from common.config import ConfigError
from common.model.adapted import AdaptedModel
from common.wire.records import TRAIN
from common.wire.secure import KEYS, PEERS, REPAIR, SECURE, secure_task, with_secure
from server_app.rounds.cohort import FederationError
from tests.support.secure_runs import SECURE as CHANGES
from tests.support.secure_runs import SecureRun, overheard
from tests.support.strategy_runs import rounds_of
from tests.support.tiny import CLIENTS, Files, run_tiny, start, tiny_config, tiny_grid, tiny_strategy

Make = Callable[..., SecureRun]


@pytest.fixture
def make(files: Files, tmp_path: Path, adapted: AdaptedModel) -> Make:
    def made(**changes: Any) -> SecureRun:
        return SecureRun.of(files, tmp_path, adapted, **changes)

    return made


def test_the_sum_is_that_of_the_survivors_for_every_set_of_missing_clients_and_refused_beyond(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make()
    number = 0
    for count in (0, 1, 2, 3, CLIENTS):
        for missing in list(combinations(range(1, CLIENTS + 1), count))[: 15 if count < 3 else 2]:
            number += 1
            opened = run.without(missing).open(number)
            run.grid.kinds.clear()
            with overheard(monkeypatch) as hidden:
                heard = run.hear(opened)
            assert run.grid.kinds == [TRAIN] + [REPAIR] * (count in (1, 2))  # one leg where nobody is missing
            if count > 2:
                assert heard.summed is None
                assert "are needed (privacy.dropouts)" in heard.shortage
                continue
            there = [values for node, values in enumerate(hidden.answers, 1) if node not in missing]
            expected = sum(hidden.repairs if count else there)
            assert heard.summed is not None
            np.testing.assert_array_equal(heard.summed, expected)
            assert len(hidden.repairs) == (len(there) if count else 0)


def test_a_round_is_lost_where_somebody_misses_the_second_leg(make: Make) -> None:
    run = make().without({1}, {2})
    heard = run.hear(run.open(1))
    assert heard.summed is None
    assert "4 of 5 clients helped to do without the missing, all are needed" in heard.shortage


def test_with_no_drop_outs_allowed_no_client_ever_gives_a_mask_away(make: Make) -> None:
    run = make(**{"privacy.dropouts": 0}).without({1})
    heard = run.hear(run.open(1))
    assert heard.summed is None
    assert REPAIR not in run.grid.kinds


def test_who_is_known_to_be_away_is_not_asked_and_needs_no_second_leg(make: Make) -> None:
    run = make()
    run.grid.away = frozenset({3, 4})
    run.strategy._wait(run.grid, 1)
    opened = run.open(1)
    assert [message.metadata.dst_node_id for message in opened.messages] == [1, 2, 5, 6]
    assert run.hear(opened).summed is not None
    assert REPAIR not in run.grid.kinds


def test_a_client_that_has_lost_its_keys_gets_new_ones_before_the_next_round(make: Make) -> None:
    run = make()
    del run.grid.context(2).state[RECORD]
    first = run.hear(run.open(1))
    assert first.summed is not None
    assert "has no pair secrets" in first.replies.failures[2]
    run.grid.kinds.clear()
    run.strategy._wait(run.grid, 2)
    assert run.grid.kinds == [KEYS, PEERS]
    second = run.hear(run.open(2))
    assert second.summed is not None
    assert not second.replies.failures


def test_keys_are_made_once_a_run(make: Make) -> None:
    run = make()
    for number in (1, 2, 3):
        run.strategy._wait(run.grid, number)
        run.hear(run.open(number))
    assert run.grid.kinds == [KEYS, PEERS, TRAIN, TRAIN, TRAIN]


def test_a_run_ends_where_too_few_clients_get_keys(files: Files, tmp_path: Path, adapted: AdaptedModel) -> None:
    config = tiny_config(files, tmp_path, CHANGES)
    grid = tiny_grid(config)
    strategy = tiny_strategy(config, adapted, tmp_path)
    grid.raising, grid.until = frozenset({1, 2, 3}), 99
    with pytest.raises(FederationError, match="3 of 6 clients sent a key, 0 have secrets with the others, 4 are"):
        strategy._wait(grid, 1)
    assert not strategy.account.rounds_charged


def test_an_answer_that_does_not_belong_to_the_others_spoils_the_round_and_is_noticed(make: Make) -> None:
    run = make()
    opened = run.open(1)
    replies = run.ask(opened.messages)
    own = {message.metadata.message_id: message for message in opened.messages}[replies[0].metadata.reply_to_message_id]
    record = replies[0].content[SECURE]
    assert isinstance(record, ConfigRecord)
    sent: bytes = record["values"]  # type: ignore[assignment]
    values = bytes(255 - byte for byte in sent[:-1]) + sent[-1:]
    content = RecordDict({SECURE: ConfigRecord({**record, "values": values})})
    replies[0] = Message(content, reply_to=own)
    heard = run.hear(opened, replies)
    assert heard.summed is None
    assert "a client lies, or clients were shown different things" in heard.shortage


def test_clients_that_were_told_different_terms_do_not_add_up(make: Make) -> None:
    """A lower rate for one of them, so that its coin says more: its masks stay on."""
    run = make()
    opened = run.open(1)
    lied = opened.messages[2]
    told = secure_task(lied.content, opened.instruction.terms, raw=False)
    assert told is not None
    changed = with_secure(lied.content, replace(told, rate=0.25))
    meta = lied.metadata
    opened.messages[2] = Message(
        changed, dst_node_id=meta.dst_node_id, message_type=meta.message_type, ttl=meta.ttl, group_id=meta.group_id
    )
    assert "shown different things" in run.hear(opened).shortage


def test_a_lost_round_is_charged_takes_no_step_and_is_told(files: Files, tmp_path: Path, adapted: AdaptedModel) -> None:
    config = tiny_config(files, tmp_path, CHANGES | {"num-server-rounds": 2, "federation.max-failed-rounds": 5})
    strategy = tiny_strategy(config, adapted, tmp_path)
    run = SecureRun.under(config, tmp_path / "other", adapted)
    strategy.attendance.federation = config.federation.model_copy(update={"wait_timeout": 0.0})
    before = strategy.state.optimizer.adapter.clone()
    after = start(strategy, run.without({1, 2, 3}).grid)
    assert (before == after).all()
    assert strategy.account.rounds_charged == 2
    assert [line.shortage for line in rounds_of(strategy)] == [
        "3 of 6 clients replied, 4 are needed (privacy.dropouts)"
    ] * 2


@pytest.mark.parametrize("strategy", ["dr-encoder", "fedcg", "fedlpp", "random-projection", "lora"])
def test_every_strategy_runs_with_a_client_missing_and_prints_one_epsilon(
    files: Files, tmp_path: Path, strategy: str
) -> None:
    changes = {"strategy.name": strategy, "privacy.sampling-rate": 0.5, "num-server-rounds": 2}
    config = tiny_config(files, tmp_path, CHANGES | changes)
    grid = tiny_grid(config)
    grid.silent, grid.until = frozenset({4}), 0  # in the set-up and in stage 1
    folder = run_tiny(config, grid)
    report = json.loads((folder.path / "report.json").read_text())["privacy"]
    text = (folder.path / "report.md").read_text()
    assert report["one_client_against_server"]["epsilon"] == report["released_model"]["epsilon"] < 20
    assert text.count("secure aggregation") == 1
    assert "the server keeps to the protocol" in text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"privacy.epsilon": float("inf"), "privacy.noise-multiplier": 0.0}, "privacy.epsilon = inf"),
        ({"privacy.dropouts": 6}, "nobody is left whose noise counts"),
        ({"privacy.dropouts": 3, "privacy.colluders": 3}, "nobody is left whose noise counts"),
        ({"strategy.name": "fedcg", "stage-one.private": False}, "stage-one.private = false"),
        ({"federation.num-clients": 1, "privacy.dropouts": 0}, "at least two clients"),
    ],
)
def test_what_cannot_be_aggregated_is_refused(
    files: Files, tmp_path: Path, adapted: AdaptedModel, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        tiny_strategy(tiny_config(files, tmp_path, CHANGES | changes), adapted, tmp_path)
