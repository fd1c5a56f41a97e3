"""Texts longer than a model's table of positions are refused before a client is waited for, and by ``evaluate``."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, OPTConfig

from common.config import ConfigError
from common.model.positions import check_length, learned_positions
from server_app.run import run_federation
from tests.support.benchmark_files import save_model, save_run
from tests.support.layouts import LAYOUTS, config_of, write_model
from tests.support.tiny import Files, run_tiny, tiny_config, write_jsonl
from workbench.evaluation.report import Request, evaluate

E2E = Path(__file__).parents[1] / "data" / "formats" / "e2e.jsonl"


def on_meta(config: Any) -> torch.nn.Module:
    with torch.device("meta"):
        model: torch.nn.Module = AutoModelForCausalLM.from_config(config)
    return model


@pytest.mark.parametrize("layout", LAYOUTS)
def test_only_a_table_of_positions_has_an_end(layout: str) -> None:
    assert learned_positions(on_meta(config_of(layout))) == (64 if layout == "gpt2" else None)


def test_rows_for_padding_are_no_positions() -> None:
    config = OPTConfig(
        vocab_size=50, hidden_size=16, word_embed_proj_dim=16, ffn_dim=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=32,
    )  # fmt: skip
    assert learned_positions(on_meta(config)) == 32


@pytest.mark.parametrize(("length", "written", "fits"), [(64, 0, True), (65, 0, False), (60, 4, True), (60, 5, False)])
def test_what_is_read_and_what_is_written_share_the_table(length: int, written: int, fits: bool) -> None:
    model = on_meta(config_of("gpt2"))
    if fits:
        check_length(model, "it", length, written)
        return
    said = rf'data.max-length = {length}.*model.name = "it" has learned positions for 64 tokens'
    with pytest.raises(ConfigError, match=said):
        check_length(model, "it", length, written)


class Unasked:
    """A grid that must not be used."""

    def get_node_ids(self) -> list[int]:
        pytest.fail("clients were waited for")


def test_a_run_is_refused_before_clients_are_waited_for(files: Files, tmp_path: Path) -> None:
    name = str(write_model("gpt2", tmp_path / "model"))
    changes = {"model.name": name, "lora.target-modules": "auto", "data.max-length": 65}
    with pytest.raises(ConfigError, match=r"data.max-length = 65: .* for 64 tokens"):
        run_federation(Unasked(), tiny_config(files, tmp_path, changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("words", [1, 30])
def test_examples_of_a_report_stay_within_the_table(files: Files, tmp_path: Path, words: int) -> None:
    """A run would be lost after its last round: up to 64 tokens are written behind prompts as long as the table."""
    public = write_jsonl(tmp_path / "held.jsonl", [{"prompt": "what is " * words, "completion": " oslo"}] * 2)
    changes = {
        "model.name": str(write_model("gpt2", tmp_path / "model")), "lora.target-modules": "auto",
        "data.max-length": 64, "data.evaluation": str(public), "num-server-rounds": 1,
    }  # fmt: skip
    folder = run_tiny(tiny_config(files, tmp_path / "results", changes), plots=True)
    samples = json.loads((folder.path / "report.json").read_text(encoding="utf-8"))["samples"]
    assert [sample["reference"] for sample in samples] == ["oslo"] * 2


def test_a_generation_is_refused_when_its_new_tokens_go_beyond(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = save_run(tmp_path / "run", save_model(tmp_path / "model"))
    monkeypatch.setattr("common.model.positions.learned_positions", lambda _: 64)
    request = Request(adapter, ("e2e",), str(E2E), {"data.max-length": 60}, new_tokens=5)
    with pytest.raises(ConfigError, match=r"data.max-length = 60 and --new-tokens = 5: .*both together must not"):
        evaluate(request)
