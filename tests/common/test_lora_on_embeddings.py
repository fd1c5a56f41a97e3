"""LoRA on the embedding: the seed's start, freeze-a, and an adapter folder without the base model's rows."""

import json
from pathlib import Path

import peft
import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from common.config import LoraConfig, ModelConfig
from common.model.adapted import load_adapted_model
from common.model.base import load_base
from common.model.base_sample import BASE_FILE, is_same_base
from common.model.positions import learned_positions
from server_app.results.folder import RunFolder
from tests.support.layouts import VOCABULARY, WIDTH, write_model
from tests.support.tiny import vectors
from workbench.simulation.group_gradients import are_linear

fresh = load_adapted_model.__wrapped__


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    return ModelConfig(name=str(write_model("llama", tmp_path_factory.mktemp("llama"))), device="cpu")


def lora(*, freeze_a: bool = False) -> LoraConfig:
    return LoraConfig(rank=2, alpha=4.0, target_modules="embed_tokens,q_proj", freeze_a=freeze_a)


def test_the_start_is_the_seeds_and_changes_nothing(model: ModelConfig) -> None:
    starts = []
    for state, seed in ((1, 5), (2, 5), (2, 6)):
        torch.manual_seed(state)
        starts.append(fresh(model, lora(), seed).initial)
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[1], starts[2])
    adapted = fresh(model, lora(), 5)
    factors = adapted.layout.unflatten(adapted.initial)
    a, b = (next(v for name, v in factors.items() if f"lora_embedding_{letter}" in name) for letter in "AB")
    assert a.shape == (2, VOCABULARY)
    assert a.abs().max() <= 1
    assert a.std() == pytest.approx(3**-0.5, rel=0.1)
    assert not b.any()
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        torch.testing.assert_close(adapted.model(ids).logits, load_base(model)[0](ids).logits)


def test_freeze_a_holds_and_b_still_learns(model: ModelConfig) -> None:
    adapted = fresh(model, lora(freeze_a=True), 5)
    names = [piece.name for piece in adapted.layout.tensors]
    assert any("lora_embedding_B" in name for name in names)
    assert not any("_A." in name for name in names)
    assert not are_linear(adapted.layout)
    ids = torch.tensor([[1, 2, 3]])
    adapted.model(input_ids=ids, labels=ids).loss.backward()
    slopes = adapted.layout.unflatten(adapted.gradient())
    assert slopes[next(name for name in names if "lora_embedding_B" in name)].norm() > 0


def test_the_adapter_folder_holds_the_adapter_alone(model: ModelConfig, tmp_path: Path) -> None:
    adapted = fresh(model, lora(), 5)
    RunFolder(tmp_path).save_adapter(adapted, adapted.initial + vectors(1, adapted.layout.size, 1)[0], model.name)
    assert is_same_base(adapted.model, json.loads((tmp_path / "adapter" / BASE_FILE).read_text())["input_embedding"])
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert sum(values.numel() for values in saved.values()) == adapted.layout.size == 2 * (VOCABULARY + 5 * WIDTH)
    loaded = PeftModel.from_pretrained(load_base(model)[0], tmp_path / "adapter")
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        torch.testing.assert_close(loaded(input_ids=ids).logits, adapted.model(input_ids=ids).logits)


def test_an_adapted_embedding_is_no_table_of_positions_though_it_has_as_many_rows() -> None:
    """As where a model has 32,768 words and 32,768 rotary positions."""
    plain = LlamaForCausalLM(
        LlamaConfig(vocab_size=64, max_position_embeddings=64, hidden_size=8, intermediate_size=8,
                    num_hidden_layers=1, num_attention_heads=1)
    )  # fmt: skip
    adapted = get_peft_model(plain, peft.LoraConfig(target_modules=["embed_tokens"]))
    assert learned_positions(adapted.get_base_model()) is None
