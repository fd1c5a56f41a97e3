"""The embedded assets: what they hold, what they weigh, and that damage is noticed."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from common.demo.model import ASSETS, WEIGHTS, load_model, load_tokenizer, model_from
from common.demo.tasks import evaluation_examples
from common.demo.weights import CorruptWeightsError

_TEXT_OF_AN_APP_BUNDLE = {".json", ".toml", ".md"}


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return load_model()


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return load_tokenizer()


def _accuracy(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, examples: Dataset) -> float:
    batch = tokenizer(list(examples["prompt"]), padding=True, padding_side="right", return_tensors="pt")
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    last = logits[torch.arange(len(logits)), batch["attention_mask"].sum(1) - 1]
    right = 0
    for row, choices, completion in zip(last, examples["choices"], examples["completion"], strict=True):
        words = [tokenizer(choice, add_special_tokens=False)["input_ids"][0] for choice in choices]
        right += choices[int(row[words].argmax())] == completion
    return right / len(examples)


def test_assets_are_small_text() -> None:
    files = list(ASSETS.iterdir())
    assert {file.suffix for file in files} <= _TEXT_OF_AN_APP_BUNDLE
    assert sum(file.stat().st_size for file in files) < 2_000_000


def test_weights_say_how_they_were_trained() -> None:
    training = json.loads((ASSETS / WEIGHTS).read_text())["training"]
    assert {"seed", "steps", "batch_size", "learning_rate"} <= set(training)


def test_loading_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    load_model()
    assert torch.equal(torch.rand(1), expected)


def test_embeddings_are_tied_and_float32(model: LlamaForCausalLM) -> None:
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("change", ["value", "shape"])
def test_changed_weights_are_refused(tmp_path: Path, change: str) -> None:
    folder = tmp_path / "assets"
    shutil.copytree(ASSETS, folder)
    document = json.loads((folder / WEIGHTS).read_text())
    entry = document["tensors"]["model.layers.0.self_attn.q_proj.weight"]
    if change == "value":
        entry["data"] = ("B" if entry["data"][0] == "A" else "A") + entry["data"][1:]
    else:
        entry["shape"] = [48, 192]
    (folder / WEIGHTS).write_text(json.dumps(document))
    with pytest.raises(CorruptWeightsError, match="digest"):
        model_from(folder)


def test_base_knows_the_facts_but_not_the_private_template(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    private = evaluation_examples("elicitation", "evaluation", seed=0)
    public = evaluation_examples("elicitation", "retention", seed=0)
    assert sorted(private["completion"]) == sorted(public["completion"])
    assert _accuracy(model, tokenizer, private) <= 0.40
    assert _accuracy(model, tokenizer, public) >= 0.90


@pytest.mark.parametrize("task", ["knowledge", "knowledge-validation"])
def test_base_guesses_at_new_knowledge(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, task: str) -> None:
    assert _accuracy(model, tokenizer, evaluation_examples(task, "evaluation", seed=0)) <= 0.40
