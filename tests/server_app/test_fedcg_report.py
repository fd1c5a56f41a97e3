"""What the report of a FedCG run says: epsilon, bytes, and what statistics save beside it."""

import json
from pathlib import Path
from typing import Any

import pytest

from common.codecs import NeuralCodec
from common.model.adapted import AdaptedModel
from common.wire.records import GRADIENTS, TRAIN, serialized_bytes
from server_app.privacy.ledger import Ledger
from tests.support.fedcg_runs import CONV, FEDCG, PRIVATE, STEPS, report_of
from tests.support.messages import Reader
from tests.support.strategy_runs import NOISY, Make
from tests.support.tiny import CLIENTS, Files, planned, run_tiny, start, tiny_config

pytestmark = pytest.mark.usefixtures("few_steps")


def test_in_the_clear_no_epsilon_is_claimed_and_the_report_says_why(files: Files, tmp_path: Path) -> None:
    """The rounds are noised all the same."""
    report = report_of(files, tmp_path, {**FEDCG, **NOISY, "num-server-rounds": 1})
    privacy = report["privacy"]
    assert privacy["released_model"]["epsilon"] == privacy["one_client_against_server"]["epsilon"] == "inf"
    assert privacy["not_private_because"].startswith("stage-one.private = false: stage 1 sends real gradients")
    assert privacy["noise_multiplier"] == 2.0
    assert "stage-one.private = false" in (tmp_path / "run" / "report.md").read_text()


def test_private_gradients_cost_their_share_of_epsilon(files: Files, adapted: AdaptedModel, tmp_path: Path) -> None:
    changes = {**FEDCG, **PRIVATE, "privacy.epsilon": 4.0, "privacy.statistics-share": 0.4, "num-server-rounds": 2}
    config = tiny_config(files, tmp_path, changes)
    plan, without = (
        planned(config, adapted, CLIENTS),
        planned(tiny_config(files, tmp_path, {**changes, "strategy.name": "lora"}), adapted, CLIENTS),
    )
    assert plan.stage_one is not None
    assert plan.round.noise_multiplier > 1.05 * without.round.noise_multiplier
    report = json.loads((run_tiny(config).path / "report.json").read_text())
    assert report["privacy"]["released_model"]["epsilon"] == pytest.approx(plan.epsilon, rel=1e-3)
    assert 3.9 < plan.epsilon <= 4.0
    assert report["privacy"]["not_private_because"] == ""
    labels = [charge.label for charge in Ledger(tmp_path / "run" / "ledger.jsonl").charges]
    assert labels == ["stage 1: gradients", "stage 2: gradient", "stage 2: gradient"]


@pytest.mark.parametrize("changes", [CONV, {}, {**PRIVATE, **NOISY}], ids=["conv", "linear", "private"])
def test_the_bytes_in_the_report_are_those_on_the_wire(make: Make, changes: dict[str, Any]) -> None:
    strategy, grid = make({**FEDCG, "num-server-rounds": 1, **changes})
    down: dict[str, int] = {}
    up: dict[str, int] = {}
    original, read = grid.answer, Reader()

    def answer(message: Any) -> Any:
        reply = original(message)
        down[message.metadata.message_type] = serialized_bytes(message.content)
        up[message.metadata.message_type] = serialized_bytes(reply.content)
        encoder[message.metadata.message_type] = read(message.content).encoder
        return reply

    encoder: dict[str, Any] = {}
    grid.answer = answer  # type: ignore[method-assign]
    start(strategy, grid)
    details: Any = strategy.measure().details()
    stage, learnt = details["stage_1"], details["autoencoder"]
    assert (stage["bytes_up_per_client"], stage["bytes_down_per_client"]) == (up[GRADIENTS], down[GRADIENTS])
    assert stage["values_up_per_client"] == stage["exact_gradients_values"] == STEPS * strategy.layout.size
    assert 4 * stage["exact_gradients_values"] < stage["exact_gradients_bytes"] < 4 * STEPS * 3072 + 100
    assert learnt["encoder_bytes_down_per_client"] == encoder[TRAIN].nbytes
    assert down[TRAIN] - down[GRADIENTS] - 4 * strategy.layout.size == pytest.approx(
        learnt["encoder_bytes_down_per_client"], abs=400
    )
    codec = strategy.codec
    assert isinstance(codec, NeuralCodec)
    assert (learnt["encoder_parameters"], learnt["decoder_parameters"]) == codec.parameters


def test_dr_encoder_says_what_its_statistics_save(make: Make) -> None:
    """The paper's Table 5 at this size: 17 values in place of 2 x 3,072."""
    strategy, grid = make({"strategy.name": "dr-encoder", **NOISY, "num-server-rounds": 1})
    start(strategy, grid)
    details: Any = strategy.measure().details()
    assert details["stage_1"]["exact_gradients_values"] == 2 * 3072
    assert details["stage_1"]["values_up_per_client"] == 17
    assert details["stage_1"]["values_over_exact_gradients"] == pytest.approx(17 / 6144)
