"""Every model layout, quantized or not, goes through whole federated rounds."""

import json
import math
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from common.config import ModelConfig
from common.model.adapted import load_adapted_model
from common.model.base import load_base
from server_app.results.folder import RunFolder
from tests.support.layouts import ADAPTER_VALUES, LAYOUTS, write_model
from tests.support.tiny import Files, final_adapter, run_tiny, tiny_config


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One directory for each layout."""
    root = tmp_path_factory.mktemp("models")
    return {name: write_model(name, root / name) for name in LAYOUTS}


@pytest.fixture(autouse=True)
def _one_model_at_a_time() -> None:
    load_adapted_model.cache_clear()


def losses(folder: RunFolder) -> list[float]:
    return [row["loss"] for row in folder.read_metrics()]


@pytest.mark.parametrize("quantization", ["none", "8", "4"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_plain_rounds_lower_the_held_out_loss_on_every_layout(
    models: dict[str, Path], files: Files, tmp_path: Path, layout: str, quantization: str
) -> None:
    """The adapter that is written is one that the base model takes, with the loss that was reported."""
    changes = {
        "strategy.name": "lora",
        "model.name": str(models[layout]),
        "model.quantization": quantization,
        "model.gradient-checkpointing": quantization == "4",
        "lora.target-modules": "auto",
        "data.max-length": 64,
        "num-server-rounds": 2,
        "server.learning-rate": 0.5,
    }
    config = tiny_config(files, tmp_path, changes)
    folder = run_tiny(config)
    base, *_, last = losses(folder)
    assert last < base - 0.001
    adapter = final_adapter(folder)
    assert adapter.shape == (ADAPTER_VALUES[layout],)
    reloaded = PeftModel.from_pretrained(load_base(config.model)[0], folder.path / "adapter")
    adapted = load_adapted_model(config.model, config.lora, config.seed)
    adapted.load(adapter)
    adapted.training_mode(False)
    ids = torch.arange(20)[None]
    with torch.no_grad():
        torch.testing.assert_close(reloaded(input_ids=ids).logits, adapted.model(input_ids=ids).logits)
        adapted.load(adapted.initial)
        assert (reloaded(input_ids=ids).logits - adapted.model(input_ids=ids).logits).abs().max() > 1e-3


@pytest.mark.parametrize("layout", ["qwen2", "gpt2"])
def test_private_codes_of_every_layout_make_a_whole_run(
    models: dict[str, Path], files: Files, tmp_path: Path, layout: str
) -> None:
    """Both stages of DR-Encoder with noise: every client answers, and all tensors of the adapter are moved."""
    changes = {
        "model.name": str(models[layout]),
        "model.dtype": "bfloat16",
        "lora.target-modules": "auto",
        "data.max-length": 64,
        "privacy.epsilon": 0.0,
        "privacy.noise-multiplier": 2.0,
        "num-server-rounds": 1,
    }
    config = tiny_config(files, tmp_path, changes)
    folder = run_tiny(config)
    report = json.loads((folder.path / "report.json").read_text())
    assert [(row["replies"], row["failures"]) for row in folder.read_metrics()[1:]] == [(6, 0)]
    assert 0 < report["privacy"]["released_model"]["epsilon"] < 8
    assert all(math.isfinite(value) for value in losses(folder))
    adapted = load_adapted_model(config.model, config.lora, config.seed)
    moved = final_adapter(folder) - adapted.initial
    assert all(moved[piece.offset : piece.end].any() for piece in adapted.layout.tensors)


@pytest.mark.parametrize("quantization", ["8", "4"])
def test_quantized_weights_are_small_and_close_to_the_originals(
    models: dict[str, Path], quantization: str, caplog: pytest.LogCaptureFixture
) -> None:
    plain = AutoModelForCausalLM.from_pretrained(models["llama"])
    model = ModelConfig(name=str(models["llama"]), quantization=quantization, device="cpu")
    base, _ = load_base(model)
    projection, original = base.model.layers[0].self_attn.q_proj, plain.model.layers[0].self_attn.q_proj
    assert projection.weight.numel() * projection.weight.element_size() == 64 * 64 * int(quantization) // 8
    probe = torch.eye(64)
    with torch.no_grad():
        error = (projection(probe) - original(probe)).norm() / original(probe).norm()
    assert 0 < error < {"8": 0.02, "4": 0.15}[quantization]
    ids = torch.arange(20)[None]
    assert base(input_ids=ids).logits.dtype == torch.bfloat16
    assert not [record for record in caplog.records if record.name.startswith("bitsandbytes")], "once for every layer"
    assert not any(parameter.requires_grad for parameter in base.parameters())
