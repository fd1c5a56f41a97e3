"""Texts that a finished adapter writes, and how they are scored."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from common.config import DataConfig
from common.data import load_examples
from common.model.adapted import AdaptedModel
from tests.support.benchmark_files import save_run
from tests.support.brief_model import ANSWER, TEMPLATE, save_brief_model
from tests.support.evaluate_command import evaluate
from tests.support.example_rows import RECORDS
from tests.support.tiny import write_jsonl
from workbench.evaluation.adapter import load_adapter
from workbench.evaluation.adapter_settings import adapter_config
from workbench.evaluation.generation import (
    GREEDY,
    Beams,
    Prompts,
    generation_settings,
    score_texts,
    write_lines,
)


def test_texts_are_those_of_greedy_decoding_one_by_one(loaded: tuple[AdaptedModel, torch.Tensor]) -> None:
    adapted, values = loaded
    prompts = ["Data: a\nText:", "Data: name[Fern], food[French]\nText:", "x"]
    expected = []
    adapted.load(values)
    for prompt in prompts:
        ids = torch.tensor([adapted.tokenizer(prompt)["input_ids"]])
        start = ids.shape[1]
        for _ in range(6):
            with torch.no_grad():
                best = adapted.model(input_ids=ids).logits[0, -1].argmax()
            if best == adapted.tokenizer.eos_token_id:
                break
            ids = torch.cat([ids, best.view(1, 1)], dim=1)
        text = adapted.tokenizer.decode(ids[0, start:], skip_special_tokens=True)
        expected.append(text.strip().partition("\n")[0].strip())
    assert any(expected)
    for batch_size in (1, 3):
        assert write_lines(adapted, values, prompts, DataConfig(), batch_size, 6) == expected


@pytest.mark.parametrize(
    "own",
    [
        {"repetition_penalty": 1.5, "do_sample": True, "temperature": 0.7, "top_k": 3},
        {"no_repeat_ngram_size": 1},
        {"num_beams": 4},
        {"min_new_tokens": 6},
        {"suppress_tokens": list(range(40))},
        {"forced_eos_token_id": 3, "max_length": 5},
    ],
)
def test_the_model_folder_has_no_say_in_how_texts_are_written(
    adapter: Path, model: str, own: dict[str, Any], tmp_path: Path, loaded: tuple[AdaptedModel, torch.Tensor]
) -> None:
    prompts = ["Data: a\nText:", "Data: name[Fern], food[French]\nText:", "x"]
    expected = write_lines(*loaded, prompts, DataConfig(), 3, 8)
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    plain = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(plain | own))
    config = adapter_config(adapter, {"model.name": str(folder)})
    again, values = load_adapter(adapter, config)
    assert write_lines(again, values, prompts, DataConfig(), 3, 8) == expected


def test_beams_change_texts_and_their_penalty_is_passed_on(loaded: tuple[AdaptedModel, torch.Tensor]) -> None:
    adapted, values = loaded
    prompts = [f"Data: name[{name}], food[French]\nText:" for name in ("Fern", "Oak", "Elm", "a", "b")]

    greedy = write_lines(adapted, values, prompts, DataConfig(), 3, 6)
    beams = write_lines(adapted, values, prompts, DataConfig(), 3, 6, Beams(8, 0.0))
    assert beams != greedy, "or the test says nothing"
    assert generation_settings(adapted, 6, Beams(8, 0.5), templated=False)["length_penalty"] == 0.5
    assert "length_penalty" not in generation_settings(adapted, 6, GREEDY, templated=False)


def test_white_space_at_a_prompts_end_is_left_to_the_model(loaded: tuple[AdaptedModel, torch.Tensor]) -> None:
    prompts = ["Data: a\nText:", "x"]
    expected = write_lines(*loaded, prompts, DataConfig(), 3, 6)
    assert write_lines(*loaded, [f"{prompt} \n" for prompt in prompts], DataConfig(), 3, 6) == expected


def test_references_of_one_prompt_are_gathered(loaded: tuple[AdaptedModel, torch.Tensor]) -> None:
    data = DataConfig(format="dialogsum")
    rows = load_examples(str(RECORDS / "dialogsum.jsonl"), data)
    found = Prompts.of(rows, data, loaded[0], None)
    assert found.references == [
        ["#Person2# says the shop is open until six.", "#Person1# asks when the shop is open."],
        ["#Person2# tells #Person1# where the key is."],
    ]
    assert Prompts.of(rows, data, loaded[0], 1).references == found.references[:1]


def test_bleu_and_rouge_take_the_best_of_several_references() -> None:
    references = [["one two three four five", "six seven eight nine ten"], ["a b c d e"]]
    right = score_texts(["six seven eight nine ten", "a b c d e"], references)
    assert right == pytest.approx({"bleu": 100.0, "rouge1": 100.0, "rouge2": 100.0, "rougeL": 100.0})
    half = score_texts(["six seven eight nine ten", "v w x y z"], references)
    assert half["rouge1"] == pytest.approx(50.0)
    assert 0 < half["bleu"] < 60
    order = score_texts(["e d c b a"], references[1:])
    assert (order["rouge1"], order["rouge2"], order["rougeL"]) == pytest.approx((100.0, 0.0, 20.0))


@pytest.mark.parametrize("name", ["e2e", "dart", "dialogsum"])
def test_a_generation_set_is_scored_with_its_held_out_loss(adapter: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "scores.json"
    path = RECORDS / f"{name}.jsonl"
    options = ["--new-tokens", "4", "--beams", "2", "--length-penalty", "0.8", "--out", str(out)]
    code, output = evaluate(adapter, "--tasks", name, "--data", str(path), *options)
    assert code == 0
    report = json.loads(out.read_text())
    said = report["generation"]
    assert (said["num_beams"], said["length_penalty"], said["max_new_tokens"]) == (2, 0.8, 4)
    assert (said["do_sample"], said["repetition_penalty"], said["bleu_tokenizer"]) == (False, 1.0, "13a")
    assert "texts: do_sample = False, num_beams = 2, length_penalty = 0.8" in output
    found: dict[str, Any] = report["scores"]
    assert list(found["adapter"][name]) == ["bleu", "rouge1", "rouge2", "rougeL", "prompts"]
    assert found["adapter"][name]["prompts"] == 2
    assert found["adapter"]["held-out"]["examples"] == 3
    assert found["adapter"]["held-out"]["loss"] != found["base"]["held-out"]["loss"]
    assert "rougeL" in output


def test_a_limit_takes_the_loss_of_the_prompts_that_are_written_for(adapter: Path, tmp_path: Path) -> None:
    """Two prompts took seconds, and the loss of all rows half an hour."""
    out = tmp_path / "scores.json"
    options = ["--tasks", "dialogsum", "--data", str(RECORDS / "dialogsum.jsonl"), "--limit", "1", "--new-tokens", "4"]
    code, _ = evaluate(adapter, *options, "--no-base", "--out", str(out))
    assert code == 0
    found = json.loads(out.read_text())["scores"]["adapter"]
    assert (found["dialogsum"]["prompts"], found["held-out"]["examples"]) == (1, 2), "both references of the first"


def test_in_a_chat_template_a_text_ends_with_the_turn(tmp_path: Path) -> None:
    """Its own texts of ``generate`` as references gave an adapter a BLEU of 2.6: texts ran on into further turns."""
    adapter = save_run(tmp_path / "run", save_brief_model(tmp_path / "model"), "q_proj,v_proj")
    row = {"meaning_representation": "name[Fern]", "human_reference": ANSWER}
    options = ["--data", str(write_jsonl(tmp_path / "own.jsonl", [row])), "--out", str(tmp_path / "scores.json")]
    code, output = evaluate(adapter, "--tasks", "e2e", "--set", "data.chat-template=true", *options)
    assert code == 0, output
    report = json.loads((tmp_path / "scores.json").read_text())
    assert report["scores"]["base"]["e2e"]["bleu"] == pytest.approx(100.0)
    assert report["generation"]["eos_token_id"] == [1, 2]


def test_a_run_on_conversations_is_asked_in_its_template(tmp_path: Path) -> None:
    """Another task's format took the place of ``chat``, and with it went the template: a BLEU of the wrong prompt."""
    adapter = save_run(tmp_path / "run", save_brief_model(tmp_path / "model"), "q_proj,v_proj")
    config = adapter.parent / "config.toml"
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace('format = "columns"', 'format = "chat"'), encoding="utf-8")
    row = {"meaning_representation": "name[Fern]", "human_reference": ANSWER}
    options = ["--data", str(write_jsonl(tmp_path / "own.jsonl", [row])), "--out", str(tmp_path / "scores.json")]
    code, output = evaluate(adapter, "--tasks", "e2e", *options)
    assert code == 0, output
    report = json.loads((tmp_path / "scores.json").read_text())
    assert report["generation"]["chat_template"] is True
    assert report["scores"]["base"]["e2e"]["bleu"] == pytest.approx(100.0)
    code, output = evaluate(adapter, "--tasks", "e2e", "--set", "data.format=columns", *options)
    assert code == 0, output
    assert "chat_template = False" in output


def test_where_training_teaches_no_end_it_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    template = TEMPLATE.replace("<pad>", "")
    adapter = save_run(tmp_path / "run", save_brief_model(tmp_path / "model", template), "q_proj,v_proj")
    options = ["--data", str(RECORDS / "e2e.jsonl"), "--new-tokens", "4", "--set", "data.chat-template=true"]
    for more, said in ((["--set", "data.append-eos=false"], True), ([], False)):
        code, output = evaluate(adapter, "--tasks", "e2e", *options, *more)
        assert code == 0, output
        assert ("training teaches no token that ends an answer" in caplog.text) == said
        caplog.clear()
