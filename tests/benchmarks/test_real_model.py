"""Rows on a real model: their files, their scores, what is run again and what is not. The model here is tiny."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig

from benchmarks.real_data import load_real_data, other_texts, read_lines, some_rows, split_file
from benchmarks.real_gradients import mean_cosine
from benchmarks.real_model import main
from benchmarks.real_scores import compute_head_at_labels, token_loss, write
from benchmarks.real_table import with_error
from client_app.local_update import local_update
from common.config import RunConfig
from common.data import IGNORED, load_examples, tokenize
from common.model.adapted import AdaptedModel, load_adapted_model
from server_app.strategies import STRATEGIES
from tests.support.benchmark_files import save_model
from tests.support.brief_model import ANSWER, save_brief_model
from tests.support.tiny import write_jsonl

PLACES, KINDS, AREAS = ("Oak", "Elm", "Ash", "Fir", "Yew", "Bay", "Ivy", "Fig"), ("inn", "bar"), ("north", "south")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Public data in the layouts of E2E, MMLU and DialogSum; one text holds a sign that ends lines for Unicode."""
    folder = tmp_path / "public"
    folder.mkdir()
    rows = [
        {"meaning_representation": f"name[{name}], eatType[{kind}], area[{area}]", "human_reference": text}
        for name in PLACES
        for kind in KINDS
        for area in AREAS
        for text in (f"{name} is a {area}ern {kind}.", f"In the {area} lies {name}, a {kind}.", f"{name}\u2028{kind}")
    ]
    write_jsonl(folder / "e2e-train.jsonl", rows[:72])
    write_jsonl(folder / "e2e-test.jsonl", rows[72:])
    write_jsonl(folder / "mmlu-test.jsonl", [{"question": f"Which of {n} things is it? " * 20} for n in range(40)])
    write_jsonl(folder / "dialogsum-test.jsonl", [{"dialogue": f"A: It is {n}.\nB: Oh. " * 20} for n in range(40)])
    return folder


@pytest.fixture
def adapted(tmp_path: Path) -> AdaptedModel:
    config = RunConfig.parse({"model.name": save_model(tmp_path / "model"), "lora.target-modules": "q_proj,v_proj"})
    return load_adapted_model.__wrapped__(config.model, config.lora, 1)


def moved(adapted: AdaptedModel) -> torch.Tensor:
    """An adapter whose second factors are not zero (shape ``[n]``)."""
    return adapted.initial + 0.1 * torch.randn(adapted.layout.size, generator=torch.Generator().manual_seed(3))


def test_no_validation_prompt_is_in_a_client_s_rows(data: Path, tmp_path: Path) -> None:
    train, validation = split_file(data / "e2e-train.jsonl", "meaning_representation", tmp_path / "split")
    parts = [{row["meaning_representation"] for row in read_lines(path)} for path in (train, validation)]
    assert len(parts[1]) == 2
    assert not parts[0] & parts[1]
    assert len(read_lines(train)) + len(read_lines(validation)) == len(read_lines(data / "e2e-train.jsonl"))


def test_texts_of_other_kinds_are_whole_lines_of_the_file(data: Path) -> None:
    found = other_texts(data)
    assert {name: len(texts) for name, texts in found.items()} == {"question": 24, "dialogue": 24}
    assert all(len(text) >= 250 for texts in found.values() for text in texts)


def test_the_head_at_labels_only_gives_the_same_gradient_and_loss(adapted: AdaptedModel) -> None:
    answers = [" yes", " certainly not", " no"]
    tokens = tokenize(adapted.tokenizer, ["Is it so?", "Is it then so, really?", "So?"], answers, 64)
    train = RunConfig.parse({"train.batch-size": 3}).train
    before = local_update(adapted, moved(adapted), tokens, train, 1)
    adapted.model.train(False)
    with torch.no_grad():
        logits = adapted.model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).logits[:, :-1]
    kept = tokens.labels[:, 1:] != IGNORED
    compute_head_at_labels(adapted)
    after = local_update(adapted, moved(adapted), tokens, train, 1)
    assert before.norm() > 0
    assert (before - after).norm() < 1e-5 * before.norm()
    mean = float(cross_entropy(logits[kept], tokens.labels[:, 1:][kept]))  # over tokens, not over rows
    assert token_loss(adapted, moved(adapted), tokens) == pytest.approx(mean, rel=1e-5)


def test_nothing_of_the_model_folder_s_generation_settings_is_used(adapted: AdaptedModel) -> None:
    config = RunConfig.parse({"data.format": "e2e"})
    prompts = ["Answer: A", "A B C"]
    compute_head_at_labels(adapted)
    plain = write(adapted, moved(adapted), prompts, config.data)
    for folder in (adapted.model, adapted.model.get_base_model()):
        folder.generation_config = GenerationConfig(repetition_penalty=5.0, suppress_tokens=list(range(3, 60)))
    assert write(adapted, moved(adapted), prompts, config.data) == plain


def test_in_a_chat_template_a_text_ends_with_the_turn(tmp_path: Path) -> None:
    keys = {"model.name": save_brief_model(tmp_path), "lora.target-modules": "q_proj", "data.chat-template": True}
    config = RunConfig.parse(keys | {"data.format": "e2e", "data.name": "x"})
    brief = load_adapted_model(config.model, config.lora, 1)
    assert write(brief, brief.initial, ["<user>Who?<pad>\n<assistant>"], config.data) == [ANSWER]


def command(kind: str, data: Path, out: Path, *more: str) -> list[str]:
    model = str(out.parent / "model")
    return [kind, "--model", model, "--data", str(data), "--out", str(out), *more]


SMALL = (
    *("--set", "federation.num-clients=4", "--set", "num-server-rounds=2", "--set", "evaluation.every=1"),
    *("--set", "lora.target-modules=q_proj,v_proj", "--set", "train.batch-size=4", "--set", "codec.size=16"),
    *("--set", "model.dtype=float32", "--set", "stage-one.steps=1", "--players", "2"),
    *("--set", "server.divergence-factor=4.0"),
)


def test_a_queue_runs_each_row_once_and_a_row_can_be_repeated(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(tmp_path / "model")
    out, again = tmp_path / "out", tmp_path / "again"
    lines = [
        command("run", data, out, "--base", "--label", "base"),
        command("run", data, out, *SMALL, "--steps", ".5,1", "--seeds", "1,2", "--label", "code"),
        command("run", data, again, *SMALL, "--steps", ".5", "--label", "code"),
    ]
    queue = tmp_path / "queue.txt"
    queue.write_text("# a remark\n" + "".join(" ".join(line) + "\n" for line in lines[:2]))
    main(["queue", str(queue)])
    main(["queue", str(queue)])
    rows = read_lines(out / "rows.jsonl")
    assert [row["label"] for row in rows] == ["base", *["code"] * 4]
    assert {(row["keys"]["server.learning-rate"], row["keys"]["seed"]) for row in rows[1:]} == {
        *((0.5, 1), (1.0, 1), (0.5, 2), (1.0, 2))
    }
    main(lines[2])
    other = read_lines(again / "rows.jsonl")[0]
    same = ("validation", "late_mean", "moved", "plan", "bytes_up")
    first = next(row for row in rows if row["id"] == other["id"])
    assert {key: other[key] for key in same} == {key: first[key] for key in same}
    assert first["plan"]["epsilon"] == pytest.approx(2.0, abs=0.01)
    assert (first["values"]["code"], first["rounds"]) == (16, 2)
    assert first["validation"]["2"] != first["validation"]["0"]
    for more in (("--label", "base"), ("--label", "code"), ("--label", "code", "--steps", ".5", "--beams", "1,2")):
        main(command("score", data, out, *more))
        main(command("score", data, out, *more, "--mean")) if more[1] == "code" else None
        main(command("score", data, out, *more))
    scores = read_lines(out / "scores.jsonl")
    assert Counter(score["beams"] for score in scores) == {0: 1 + 4 + 4, 1: 2 + 2, 2: 2 + 2}
    main(["table", "--out", str(out)])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| code")]
    assert [line.split(" | ")[:5] for line in lines] == [
        [f"| code{late}", step, "2", "2", "16"] for step in ("0.5", "1") for late in ("", ", late mean")
    ]


def test_what_gradients_have_in_common_is_told(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_model(tmp_path / "model")
    out = tmp_path / "out"
    main(command("run", data, out, "--base", "--label", "base"))
    capsys.readouterr()
    more = ("--set", "federation.num-clients=6", "--set", "model.dtype=float32")
    main(command("gradients", data, out, "--label", "base", *more))
    found = capsys.readouterr().out.splitlines()[-1]
    assert "cosine" in found
    assert "'v_proj.lora_A': 0.0" in found  # its gradient is zero where B is
    same, other = torch.eye(4)[[0, 0, 0]], torch.eye(4)[:3]
    assert (mean_cosine(same), mean_cosine(other)) == (1.0, 0.0)


def test_a_row_that_fails_is_noted_and_the_next_one_runs(data: Path, tmp_path: Path) -> None:
    save_model(tmp_path / "model")
    out = tmp_path / "out"
    main(command("run", data, out, *SMALL, "--set", "strategy.name=nobody"))
    assert "strategy.name" in json.loads((out / "failed.jsonl").read_text())["error"]
    before = {name: STRATEGIES.entry(name) for name in STRATEGIES}
    main(command("run", data, out, *SMALL, "--set", "strategy.name=weighted-code"))
    assert len(read_lines(out / "rows.jsonl")) == 1
    assert before == {name: STRATEGIES.entry(name) for name in STRATEGIES}  # what only experiments know stays with them


def test_prompts_keep_all_their_references_for_scores_and_a_few_for_losses(data: Path) -> None:
    config = RunConfig.parse({"data.format": "e2e"})
    rows = load_examples(str(data / "e2e-test.jsonl"), config.data)
    assert len(some_rows(rows, 2, 2)) == 2 * len(set(some_rows(rows, 2, 9)["prompt"]))
    assert len(some_rows(rows, 1, 9)) == len(rows)


def test_public_rows_are_not_the_clients_rows(data: Path, tmp_path: Path, adapted: AdaptedModel) -> None:
    found = load_real_data(data, tmp_path / "files", RunConfig.parse({"data.format": "e2e"}).data, adapted.tokenizer)
    assert len(found.validation) == 4
    assert set(found.retention) == {"question", "dialogue"}


def test_standard_errors() -> None:
    assert with_error([1.0, 2.0, 3.0]) == "2.000 ± 0.577"
    assert with_error([2.0]) == "2.000"
    assert with_error([]) == "–"
