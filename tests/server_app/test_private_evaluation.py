"""Private evaluation end to end in one process: what comes out, of which rows, under which noise."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from client_app import app as client_module
from common import seeds
from common.config import RunConfig
from common.data import IGNORED, TokenizedExamples, private_tokens
from common.model.adapted import AdaptedModel
from common.privacy.accounting import epsilon
from common.score_code import LOSS_BOUND
from common.wire.records import EVALUATE, TRAIN, round_of
from server_app.log import read_events, recording
from server_app.privacy.ledger import Ledger
from server_app.privacy.scores import EVALUATION
from server_app.results.report import private_ends
from server_app.strategies.base import FederatedAdapter
from tests.support.false_alarms import rms_outside, statistical
from tests.support.grids import TinyGrid, faulty
from tests.support.killed_runs import REPEATABLE, killed_after, resumed
from tests.support.strategy_runs import VARIANTS, Make
from tests.support.tiny import CLIENTS, Files, run_tiny, start, tiny_config

pytestmark = pytest.mark.usefixtures("few_steps")
CLEAR: dict[str, Any] = {"evaluation.private": 0.1, "num-server-rounds": 2}
OF_EIGHT = 2  # rows that are held out


def held_out(config: RunConfig, adapted: AdaptedModel, partition: int) -> TokenizedExamples:
    """By the documented rule: a fifth, at least one, of a permutation that the seed of the client draws."""
    found = private_tokens(config.data, adapted.tokenizer, partition, CLIENTS, config.seed)
    generator = torch.Generator().manual_seed(seeds.of_held_out(config.seed, partition))
    return found.select(torch.randperm(len(found), generator=generator)[:OF_EIGHT].sort().values)


@torch.no_grad()
def scores_of(adapted: AdaptedModel, adapter: Tensor, rows: TokenizedExamples) -> tuple[float, float]:
    """Loss and next-token accuracy over the completions, with transformers' own forward pass and all logits."""
    adapted.load(adapter)
    adapted.model.train(False)
    logits = adapted.model(input_ids=rows.input_ids, attention_mask=rows.attention_mask).logits[:, :-1]
    labels = rows.labels[:, 1:]
    there = labels != IGNORED
    told = logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    return -float(told[there].mean()), float((logits.argmax(-1) == labels)[there].float().mean())


@pytest.mark.parametrize("variant", VARIANTS)
def test_without_noise_it_is_the_mean_of_the_clients_own_scores(
    make: Make, adapted: AdaptedModel, variant: str
) -> None:
    """Of what the clients get: of the proxy where that is what they are sent."""
    strategy, grid = make({**VARIANTS[variant], **CLEAR, "num-server-rounds": 1})
    found: list[Any] = []
    strategy.hooks = type(strategy.hooks)(
        lambda *_: None, lambda _: None, lambda *seen: found.append((seen[2], adapter_of(strategy))),
        on_base=lambda scores, _: found.append((scores.metrics(), strategy.adapted.initial)),
    )  # fmt: skip
    start(strategy, grid)
    assert len(found) == 2  # the base model, and after the round
    for metrics, adapter in found:
        rows = [held_out(strategy.config, strategy.adapted, partition) for partition in range(CLIENTS)]
        expected = [scores_of(strategy.adapted, adapter, each) for each in rows]
        loss = sum(min(each, LOSS_BOUND) for each, _ in expected) / CLIENTS
        assert metrics["private_loss"] == pytest.approx(loss, abs=2e-4)
        assert metrics["private_accuracy"] == pytest.approx(sum(each for _, each in expected) / CLIENTS, abs=2e-4)
        assert metrics["private_loss_error"] == 0.0


@pytest.mark.parametrize(("kept", "last"), [(4, 3), (3, 3), (2, 1), (0, 0)])
def test_the_report_has_the_scores_of_the_adapter_that_is_kept(kept: int, last: int) -> None:
    """Of a run that diverged in round 4 these were those of round 3, whichever adapter it had gone back to."""
    names = ("private_loss", "private_accuracy", "private_loss_error", "private_accuracy_error")
    rows = [{"round": number, **dict.fromkeys(names, float(number))} for number in (0, 1, 3)] + [{"round": 4}]
    ends = private_ends(rows, kept)
    assert (ends["base"]["round"], ends["final"]["round"], ends["final"]["private_loss"]) == (0, last, last)
    assert private_ends(rows[3:], kept) == {}
    assert private_ends(rows[1:], kept) == {}, "nothing stands for the base model's, which are lost"


def adapter_of(strategy: FederatedAdapter) -> Tensor:
    """As clients have it in the next round."""
    sent: Any = strategy.broadcast(strategy.state.round + 1, strategy.state.optimizer.adapter)
    return sent if isinstance(sent, Tensor) else sent.dequantize(strategy.layout)


@pytest.mark.parametrize("changes", [{}, {"strategy.name": "fedcg", "stage-one.private": False}])
def test_what_is_held_out_is_never_trained_on(
    make: Make, adapted: AdaptedModel, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    used: dict[str, set[tuple[int, ...]]] = {"trained": set(), "scored": set()}
    asked: list[int] = [0]

    class Listening(TinyGrid):
        def answer(self, message: Any) -> Any:
            asked[0] = message.metadata.dst_node_id - 1
            return super().answer(message)

    def spy(name: str, kind: str) -> None:
        original = getattr(client_module, name)

        def spying(*given: Any, **named: Any) -> Any:
            used[kind] |= tagged(asked[0], given[2])
            return original(*given, **named)

        monkeypatch.setattr(client_module, name, spying)

    spy("local_update", "trained")
    spy("gradient_stream", "trained")
    spy("held_out_scores", "scored")
    epochs = {"train.local-steps": 0, "train.local-epochs": 1}
    strategy, grid = make({**CLEAR, **epochs, **changes}, kind=Listening)
    start(strategy, grid)
    rows = [private_tokens(strategy.config.data, adapted.tokenizer, client, CLIENTS, 1) for client in range(CLIENTS)]
    everything = set.union(*(tagged(client, each) for client, each in enumerate(rows)))
    kept = set.union(*(tagged(client, held_out(strategy.config, adapted, client)) for client in range(CLIENTS)))
    assert used["scored"] == kept
    assert len(kept) == OF_EIGHT * CLIENTS
    assert not used["trained"] & kept
    assert used["trained"] == everything - kept


def tagged(client: int, rows: TokenizedExamples) -> set[tuple[int, ...]]:
    """Each row behind the number of its client, without its padding."""
    lengths = rows.attention_mask.sum(dim=1).tolist()
    return {(client, *row[:length]) for row, length in zip(rows.input_ids.tolist(), lengths, strict=True)}


def test_without_private_evaluation_all_rows_are_trained_on(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    monkeypatch.setattr(client_module, "local_update", lambda *given: counted.append(len(given[2])) or given[1] * 0)
    strategy, grid = make({"num-server-rounds": 1})
    start(strategy, grid)
    assert counted == [8] * CLIENTS


@pytest.mark.parametrize("trust", ["central", "distributed", "local", "secure"])
@statistical(rms_outside(0.72, 1.28, 160), "system")
def test_the_noise_is_as_large_as_is_told(make: Make, monkeypatch: pytest.MonkeyPatch, trust: str) -> None:
    """160 scores, 80 of each kind, around known means; misses half of σ, or twice of it, in none."""
    monkeypatch.setattr(client_module, "held_out_scores", lambda *_, **__: (1.5, 0.25))
    many = {"num-server-rounds": 80, "privacy.epsilon": 2.0, "privacy.trust": trust, "privacy.dropouts": 0}
    strategy, grid = make({**CLEAR, **many})
    strategy.state.codec = strategy.recipe.codec
    strategy._wait(grid, 0)
    found = [strategy._score_privately(grid, 0, last=True) for _ in range(80)]
    assert all(found)
    scores = [one[0] for one in found if one]
    errors = [[(s.loss - 1.5) / s.loss_error, (s.accuracy - 0.25) / s.accuracy_error] for s in scores if s]
    assert 0.72 < math.sqrt(np.square(errors).mean()) < 1.28


@pytest.mark.parametrize("trust", ["distributed", "secure"])
def test_each_is_charged_before_it_is_asked_and_there_are_as_many_as_planned(make: Make, trust: str) -> None:
    charged: list[int] = []

    class Listening(TinyGrid):
        def answer(self, message: Any) -> Any:
            if message.metadata.message_type == EVALUATE:
                charged.append(strategy.account.evaluations_charged)
            return super().answer(message)

    changes = {"num-server-rounds": 3, "evaluation.every": 2, "privacy.epsilon": 2.0, "privacy.trust": trust}
    strategy, grid = make({**CLEAR, **changes}, kind=Listening)
    start(strategy, grid)
    assert charged == [1] * CLIENTS + [2] * CLIENTS + [3] * CLIENTS  # of the base model, after rounds 2 and 3
    assert strategy.account.epsilon_model() <= 2.0


def test_a_round_that_is_done_again_leaves_one_for_the_last(files: Files, tmp_path: Path) -> None:
    """Killed between evaluation and checkpoint: charged twice, so one in the middle and the last round fall out."""
    changes = {**REPEATABLE, "strategy.name": "lora", "evaluation.private": 0.2, "evaluation.every": 2}
    config = tiny_config(files, tmp_path, {**changes, "num-server-rounds": 6})
    with pytest.MonkeyPatch.context() as patch:
        killed = killed_after(config, 2, patch, where="before")
    folder = resumed(config, killed)
    charges = [charge for charge in Ledger(folder.ledger).charges if charge.label == EVALUATION]
    assert len(charges) == 4
    assert [row["round"] for row in folder.read_metrics() if "private_loss" in row] == [
        0,
        2,
        5,
    ]  # the run pays for one round less


def test_who_does_not_answer_counts_as_the_middle(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "held_out_scores", lambda *_, **__: (0.0, 1.0))
    strategy, grid = make(CLEAR)
    strategy.state.codec = strategy.recipe.codec
    found = strategy._score_privately(faulty(grid, raising={2}, silent={3}), 0, last=True)
    scores = found[0] if found else None
    assert scores
    assert scores.accuracy == pytest.approx((4 + 2 * 0.5) / CLIENTS)
    assert scores.loss == pytest.approx(2 * LOSS_BOUND / 2 / CLIENTS)


def test_who_lacks_something_in_an_evaluation_is_told_of_the_round_that_it_follows(make: Make, tmp_path: Path) -> None:
    """Node 2 has lost what it kept when it is asked after round 2, whose message has the number 3."""
    cleared: list[int] = []

    class Forgetful(TinyGrid):
        def answer(self, message: Any) -> Any:
            if message.metadata.dst_node_id == 2 and round_of(message) == 3 and not cleared:
                self.context(2).state.clear()
                cleared.append(2)
            return super().answer(message)

    strategy, grid = make({**CLEAR, "strategy.name": "random-projection"}, kind=Forgetful)
    with recording(tmp_path / "events.jsonl", 1):
        start(strategy, grid)
    told = [event for event in read_events(tmp_path / "events.jsonl") if event["event"] == "asked_with_everything"]
    assert [(event["round"], event["nodes"]) for event in told] == [(2, 1)]


def test_everybody_is_asked_once_and_sent_no_more_than_it_lacks(make: Make) -> None:
    kinds: list[tuple[str, int]] = []

    class Listening(TinyGrid):
        def answer(self, message: Any) -> Any:
            kinds.append((message.metadata.message_type, message.metadata.dst_node_id))
            return super().answer(message)

    strategy, grid = make({**CLEAR, "strategy.name": "random-projection", "evaluation.every": 2}, kind=Listening)
    start(strategy, grid)
    assert sorted(node for kind, node in kinds if kind == EVALUATE) == sorted(2 * [*range(1, CLIENTS + 1)])
    assert [kind for kind, _ in kinds].count(TRAIN) == 2 * CLIENTS


def test_what_was_spent_before_round_1_counts_the_base_models_evaluation(files: Files, tmp_path: Path) -> None:
    """The chart of a run began with stage 1 alone, beside the scores that had cost more."""
    changes = {"evaluation.private": 0.2, "num-server-rounds": 2, "evaluation.every": 2, "privacy.epsilon": 8.0}
    folder = run_tiny(tiny_config(files, tmp_path, changes))
    report = json.loads((folder.path / "report.json").read_text())
    told, charges = report["privacy"]["released_model"], Ledger(folder.ledger).charges
    assert [charge.label == EVALUATION for charge in charges] == [False, True, False, False, True]
    assert 0 < told["epsilon_of_stage_1"] < told["epsilon_before_round_1"] < folder.read_metrics()[1]["epsilon"]
    delta = told["delta"]
    for key, of in (("epsilon_of_stage_1", charges[:1]), ("epsilon_before_round_1", charges[:2])):
        assert told[key] == pytest.approx(epsilon(of, delta), rel=0.02)
