"""``model.dtype = "auto"``: bfloat16 where the device computes in it, and a word where it does not."""

from pathlib import Path

import pytest
import torch

from common.config import ModelConfig
from common.model.adapted import load_adapted_model
from common.model.precision import dtype_name, dtype_of, slow_arithmetic
from server_app.run import run_federation
from tests.support.layouts import write_model
from tests.support.tiny import Files, tiny_config, tiny_grid
from workbench.simulation.launcher import read_preset

OLD: dict[str, bool] = {"avx2": True, "avx512_f": True}


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """What this machine's processor says of itself; no GPU."""
    able = dict(OLD)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return able


def model(**keys: str) -> ModelConfig:
    return ModelConfig.model_validate({"name": "org/name", **keys})


@pytest.mark.parametrize("able", ["avx512_bf16", "amx_bf16", "bf16"])
def test_where_the_processor_multiplies_bfloat16_it_is_taken(processor: dict[str, bool], able: str) -> None:
    processor[able] = True
    assert dtype_of(model(dtype="auto")) == torch.bfloat16
    assert slow_arithmetic(model(dtype="bfloat16")) == slow_arithmetic(model(quantization="4")) == ""


@pytest.mark.usefixtures("processor")
def test_elsewhere_float32_is_taken_and_half_precision_warned_of() -> None:
    assert dtype_name(model(dtype="auto")) == "float32"
    for asked in ("bfloat16", "float16"):
        assert dtype_name(model(dtype=asked)) == asked
        assert slow_arithmetic(model(dtype=asked)).startswith(f'model.dtype = "{asked}": this processor does not')
    assert slow_arithmetic(model(quantization="8")).startswith('model.quantization = "8": the rest is computed in')
    for quick in (model(), model(dtype="auto"), model(dtype="bfloat16", device="cuda"), model(name="demo")):
        assert slow_arithmetic(quick) == ""


def test_a_gpu_that_computes_in_it_takes_it(monkeypatch: pytest.MonkeyPatch, processor: dict[str, bool]) -> None:
    assert processor == OLD
    assert dtype_name(model(dtype="auto", device="cuda")) == "bfloat16", "to be had on another machine"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for able in (False, True):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, able=able: able)
        assert dtype_name(model(dtype="auto")) == ("bfloat16" if able else "float32")


def test_a_model_is_loaded_in_what_is_settled(processor: dict[str, bool], tmp_path: Path, files: Files) -> None:
    write_model("llama", tmp_path)
    config = tiny_config(files, tmp_path, {"model.name": str(tmp_path), "model.dtype": "auto"})
    for able, dtype in ((False, torch.float32), (True, torch.bfloat16)):
        processor["amx_bf16"] = able
        adapted = load_adapted_model.__wrapped__(config.model, config.lora, 1)
        assert adapted.model.get_base_model().dtype == dtype


@pytest.mark.usefixtures("processor")
def test_a_run_warns_before_anything_long(files: Files, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_model("llama", tmp_path / "model")
    changes = {"model.name": str(tmp_path / "model"), "model.dtype": "bfloat16", "num-server-rounds": 1}
    config = tiny_config(files, tmp_path, changes)
    run_federation(tiny_grid(config), config, plots=False)
    said = capfd.readouterr().out
    assert said.index('model.dtype = "bfloat16": this processor does not compute in it') < said.index("base model")


def test_the_preset_for_real_models_settles_it() -> None:
    assert read_preset("llm")["model.dtype"] == "auto"
