"""Models that cannot be fine-tuned as they are, refused in one line before anything is started and when loaded."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BertLMHeadModel,
    BigBirdConfig,
    GemmaConfig,
    GPTNeoXConfig,
    PreTrainedModel,
    RobertaConfig,
    RobertaForMaskedLM,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
    XLNetConfig,
    XLNetLMHeadModel,
)

from common.config import ConfigError, RunConfig
from common.model import base as base_model
from common.model import causal
from common.model.base import load_base
from tests.support.layouts import VOCABULARY, write_model, write_tokenizer
from workbench.planning.local_model import check_model

BERT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


def config_of(folder: Path, **changes: Any) -> RunConfig:
    return RunConfig.parse({"model.name": str(folder), "data.name": "x", "data.max-length": 64, **changes})


def refusals(config: RunConfig) -> list[str]:
    """What is said before the start, and by who loads the model."""
    said = []
    for attempt in (lambda: check_model(config), lambda: load_base(config.model)):
        with pytest.raises(ConfigError) as refused:
            attempt()
        said.append(str(refused.value))
    assert all("\n" not in text and len(text) < 500 for text in said)
    return said


def t5() -> PreTrainedModel:
    return T5ForConditionalGeneration(T5Config(vocab_size=VOCABULARY, d_model=32, d_ff=32, num_layers=1, num_heads=2))


def bart() -> PreTrainedModel:
    layers = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    return BartForConditionalGeneration(BartConfig(vocab_size=VOCABULARY, d_model=32, **layers))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (t5, "an encoder-decoder model (t5)"),
        (bart, "an encoder-decoder model (bart)"),
        (lambda: BertLMHeadModel(BertConfig(**BERT)), "a bidirectional model (bert)"),
        (lambda: BertForMaskedLM(BertConfig(**BERT)), "a bidirectional model (bert)"),
        (lambda: RobertaForMaskedLM(RobertaConfig(**BERT)), "a bidirectional model (roberta)"),
        (
            lambda: XLNetLMHeadModel(XLNetConfig(vocab_size=VOCABULARY, d_model=32, n_layer=1, n_head=2, d_inner=32)),
            "a bidirectional model (xlnet)",
        ),
        (
            lambda: ViTForImageClassification(ViTConfig(**{**BERT, "vocab_size": 9})),
            "a vit model does not continue texts",
        ),
    ],
)
def test_a_model_that_is_not_causal_is_refused(make: Any, said: str, tmp_path: Path) -> None:
    make().save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    for text in refusals(config_of(tmp_path)):
        assert said in text
        assert "a causal (decoder-only) language model is needed" in text


def test_one_that_looks_ahead_is_found_by_what_it_says_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no configuration tells: by its attention without weights, by its words with them."""
    sizes = {"num_key_value_heads": 2, "head_dim": 16, "use_bidirectional_attention": True}
    AutoModelForCausalLM.from_config(GemmaConfig(**BERT, **sizes)).save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    with pytest.raises(ConfigError, match=r"a bidirectional model \(gemma\)"):
        check_model(config_of(tmp_path))
    BertLMHeadModel(BertConfig(**BERT)).save_pretrained(tmp_path)
    monkeypatch.setattr(base_model, "check_architecture", lambda *_: None)
    with pytest.raises(ConfigError, match=r"a bidirectional model \(bert\)"):
        load_base(config_of(tmp_path).model)


def test_files_that_transformers_cannot_use_are_told_in_a_line(tmp_path: Path) -> None:
    """A quantized model whose package is missing, a tokenizer that is none, a type that is unknown."""
    folder = write_model("gpt2", tmp_path)
    described = json.loads((folder / "config.json").read_text())
    quantized = {**described, "quantization_config": {"quant_method": "gptq", "bits": 4}}
    (folder / "config.json").write_text(json.dumps(quantized))
    for text in refusals(config_of(folder)):
        assert "optimum" in text
    unknown = tmp_path / "unknown"
    unknown.mkdir()
    (unknown / "config.json").write_text(json.dumps({**described, "model_type": "nosuchtype"}))
    with pytest.raises(ConfigError, match=r"transformers [\d.]+ cannot use its config\.json: .*nosuchtype"):
        check_model(config_of(unknown))
    (folder / "config.json").write_text(json.dumps(described))
    for broken in ("{", '{"a": 1}', '{"version": "1.0", "model": {"type": "none"}, "added_tokens": []}'):
        (folder / "tokenizer.json").write_text(broken)
        for text in refusals(config_of(folder)):
            assert "its tokenizer cannot be read" in text


@pytest.mark.parametrize("config", [BertConfig(**BERT, is_decoder=True), GPTNeoXConfig(**BERT)])
def test_a_causal_one_of_like_make_is_taken(config: Any, tmp_path: Path) -> None:
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    check_model(config_of(tmp_path))
    base, _ = load_base(config_of(tmp_path).model)
    causal.check_causal(base, "it")


def test_one_whose_attention_changes_with_what_it_has_read_is_refused(tmp_path: Path) -> None:
    """Clients share a model: what one has read must not change what another computes."""
    sizes = {**BERT, "is_decoder": True, "max_position_embeddings": 512, "block_size": 8, "num_random_blocks": 1}
    AutoModelForCausalLM.from_config(BigBirdConfig(**sizes)).save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    assert all('"block_sparse" in its config.json' in text for text in refusals(config_of(tmp_path)))
    described = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(described | {"attention_type": "original_full"}))
    check_model(config_of(tmp_path, **{"lora.target-modules": "query,value"}))
    load_base(config_of(tmp_path).model)


def test_a_folder_with_an_adapter_in_it_is_refused(tmp_path: Path) -> None:
    base = write_model("gpt2", tmp_path / "base")
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=1, target_modules=["c_attn"]))
    folder = write_model("gpt2", tmp_path / "it")
    adapted.save_pretrained(folder)
    for text in refusals(config_of(folder)):
        assert "holds an adapter of PEFT (adapter_config.json)" in text


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def edit(folder: Path, change: Any) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def without_one(folder: Path) -> None:
    edit(folder, lambda weights: weights.pop("model.layers.1.mlp.up_proj.weight"))


def of_another_width(folder: Path) -> None:
    edit(folder, lambda w: w.update({"model.norm.weight": w["model.norm.weight"][:32].clone()}))


def fewer_layers(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text()) | {"num_hidden_layers": 1}
    config.pop("layer_types", None)
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (cut, "a .safetensors file is damaged"),
        (without_one, "1 of its tensors are missing from the weight files and would be random: model.layers.1.mlp.up"),
        (of_another_width, "model.norm.weight is (32,), not (64,)"),
        (fewer_layers, "its weight files hold layers that config.json does not name: model.layers.1."),
    ],
)
def test_weights_that_do_not_fit_their_configuration_are_refused(harm: Any, said: str, tmp_path: Path) -> None:
    write_model("llama", tmp_path)
    check_model(config_of(tmp_path))
    harm(tmp_path)
    for text in refusals(config_of(tmp_path)):
        assert said in text


@pytest.mark.parametrize("token", ["pad", "eos"])
def test_a_special_token_without_a_row_is_refused(token: str, tmp_path: Path) -> None:
    write_model("llama", tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.add_special_tokens({f"{token}_token": "[NEW]"})
    tokenizer.save_pretrained(tmp_path)
    number = tokenizer.convert_tokens_to_ids("[NEW]")
    if number < VOCABULARY:  # the tokenizer's words may be fewer than the model's rows
        names = {f"[FILL{place}]": None for place in range(VOCABULARY - number)}
        tokenizer = AutoTokenizer.from_pretrained(write_model("llama", tmp_path))
        tokenizer.add_tokens(list(names))
        tokenizer.add_special_tokens({f"{token}_token": "[NEW]"})
        tokenizer.save_pretrained(tmp_path)
    for text in refusals(config_of(tmp_path)):
        assert f"'[NEW]' has id {VOCABULARY}, and the model has {VOCABULARY} rows" in text


def test_a_rank_that_no_layer_can_have_is_refused_before_it_is_allocated(tmp_path: Path) -> None:
    write_model("qwen2", tmp_path)
    check_model(config_of(tmp_path, **{"lora.rank": 64}))
    for rank in (65, 100_000):
        with pytest.raises(ConfigError, match=f"lora.rank = {rank}: above the width of every adapted layer; .* 64"):
            check_model(config_of(tmp_path, **{"lora.rank": rank}))


def test_nothing_that_a_model_brings_is_compiled() -> None:
    """BitNet's layers would be, anew for each length of a private row."""
    program = """
import common, torch
compiled = []
def backend(graph, inputs):
    compiled.append(1)
    return graph.forward
layer = torch.compile(lambda values: values + 1, backend=backend)
print(layer(torch.zeros(2)).tolist(), compiled)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "[1.0, 1.0] []\n"
