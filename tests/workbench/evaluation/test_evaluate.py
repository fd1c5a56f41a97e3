"""``dr-encoder evaluate`` on benchmarks in MMLU's and C-Eval's layout, and on generation sets, all on this disk."""

import json
import os
import pickle
import re
import runpy
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import lm_eval
import pytest
import torch
import yaml
from lm_eval.tasks import TaskManager
from safetensors.torch import load_file, save_file

from common.config import ConfigError, DataConfig
from common.counts import count
from common.data import load_examples
from common.model.adapted import AdaptedModel
from common.model.base_sample import BASE_FILE
from server_app.results.evaluation import Evaluator
from server_app.results.folder import RunFolder
from tests.support.benchmark_files import CEVAL, MMLU, mmlu_questions
from tests.support.evaluate_command import evaluate, refused
from tests.support.example_rows import RECORDS
from tests.support.tiny import write_jsonl
from workbench.evaluation import columns as evaluation_columns
from workbench.evaluation import generation as evaluation_generation
from workbench.evaluation import harness as evaluation_harness
from workbench.evaluation import report as evaluation_report
from workbench.evaluation.adapter import load_adapter
from workbench.evaluation.adapter_settings import adapter_config
from workbench.evaluation.columns import SubjectScore, benchmarks
from workbench.evaluation.harness import Harness, HarnessSettings


def test_the_papers_columns_are_printed_and_written_for_base_and_adapter(
    adapter: Path, tasks: Path, tmp_path: Path
) -> None:
    out = tmp_path / "scores.json"
    options = ["--tasks", "mmlu,ceval-valid", "--include-path", str(tasks), "--shots", "1", "--out", str(out)]
    code, output = evaluate(adapter, *options)
    assert code == 0
    report = json.loads(out.read_text())
    found = report["scores"]["adapter"]
    # the adapter says B: MMLU by question, C-Eval by subject
    assert found["mmlu"]["columns"] == pytest.approx(
        {"STEM": 80.0, "Social": 50.0, "Humanities": 0.0, "Others": 100.0, "Average": 100 * 6 / 12}
    )
    assert found["mmlu"]["questions"] == 12
    assert found["ceval-valid"]["columns"] == pytest.approx(
        {
            "STEM": (25 + 100 + 100) / 3,
            "Social": 50.0,
            "Humanities": 0.0,
            "Others": 100 * 2 / 3,
            "Average": (25 + 100 + 100 + 50 + 0 + 200 / 3) / 6,
            "Avg(Hard)": 62.5,
        }
    )
    assert found["ceval-valid"]["subjects"] == {name: keys.count("B") / len(keys) for name, keys in CEVAL.items()}
    assert report["scores"]["base"]["mmlu"]["subjects"] != found["mmlu"]["subjects"]
    lines = output.splitlines()
    table = lines.index("ceval-valid (accuracy in %, 18 questions, 1-shot)")
    assert lines[table + 1].split() == ["STEM", "Social", "Humanities", "Others", "Average", "Avg(Hard)"]
    assert lines[table + 2].split()[0] == "base"
    assert lines[table + 3].split() == ["adapter", "75.00", "50.00", "0.00", "66.67", "56.94", "62.50"]
    assert "Avg(Hard)" not in lines[lines.index("mmlu (accuracy in %, 12 questions, 1-shot)") + 1]
    assert "held-out loss: not computed" in output


@pytest.mark.parametrize("which", ["base", "adapter"])
def test_the_harness_and_the_in_run_evaluation_agree(
    loaded: tuple[AdaptedModel, torch.Tensor], tasks: Path, tmp_path: Path, which: str
) -> None:
    """Both ask MMLU's questions in the same words, so without examples before them they find the same."""
    adapted, trained = loaded
    values = trained if which == "adapter" else adapted.initial
    found = Harness(["mmlu"], HarnessSettings(shots=0, include_path=str(tasks)))(adapted, values)["mmlu"]
    data = DataConfig(format="mmlu")
    rows = load_examples(str(write_jsonl(tmp_path / "mmlu.jsonl", mmlu_questions().to_list())), data)
    expected = Evaluator(adapted, rows, data)(values)
    assert found["subjects"] == pytest.approx(expected.accuracy_by_group)
    assert found["columns"]["Average"] == pytest.approx(100 * (expected.accuracy or 0))
    assert set(found["subjects"]) == set(MMLU)


def test_a_limit_takes_the_first_questions_and_no_base_is_left_out(adapter: Path, tasks: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.json"
    options = ["--include-path", str(tasks), "--shots", "0", "--limit", "2", "--no-base", "--out", str(out)]
    code, _ = evaluate(adapter, "--tasks", "mmlu", *options)
    assert code == 0
    report = json.loads(out.read_text())
    assert list(report["scores"]) == ["adapter"]
    assert report["scores"]["adapter"]["mmlu"]["questions"] == sum(min(2, len(keys)) for keys in MMLU.values())
    assert report["scores"]["adapter"]["mmlu"]["subjects"]["philosophy"] == 0.0


def test_a_task_of_its_own_has_the_harnesss_metrics(adapter: Path, tasks: Path) -> None:
    options = ["--include-path", str(tasks), "--shots", "1", "--no-base"]
    code, output = evaluate(adapter, "--tasks", "mmlu_astronomy", *options)
    assert code == 0
    table = output.splitlines().index("mmlu_astronomy")
    found = dict(zip(output.splitlines()[table + 1].split(), output.splitlines()[table + 2].split()[1:], strict=True))
    assert found["acc,none"] == "1.000"
    said = refused(adapter, "--tasks", "mmlu,mmlu_astronomy", *options)
    assert "tasks mmlu, mmlu_astronomy: the harness cannot run them: Duplicate task 'mmlu_astronomy'" in said


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"fewshot_config": {"sampler": "first_n"}}, "AssertionError: .*number of fewshot samples.*--shots"),
        ({"doc_to_text": "{{no_column}}"}, "UndefinedError: 'no_column' is undefined"),
        ({"doc_to_text": "{{question"}, "TemplateSyntaxError"),
        ({"test_split": "tset"}, "KeyError: 'tset'"),
        ({"test_splits": "test"}, "TypeError: .*test_splits"),
        ({"doc_to_target": 7}, "IndexError"),
        ({"process_docs": "!function utils.no_function"}, "TypeError"),
    ],
)
def test_a_mistake_in_a_task_file_is_refused_in_a_line(
    adapter: Path, tasks: Path, tmp_path: Path, change: dict[str, Any], expected: str
) -> None:
    task = yaml.safe_load((tasks / "mmlu_astronomy.yaml").read_text(encoding="utf-8"))
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(task | change), encoding="utf-8")
    code, said = evaluate(adapter, "--tasks", "mmlu_astronomy", "--include-path", str(tmp_path), "--shots", "3")
    assert code == 1
    assert re.search(rf"error: tasks mmlu_astronomy: the harness cannot run them: {expected}", said)


def test_questions_that_no_model_can_answer_are_told(
    loaded: tuple[AdaptedModel, torch.Tensor], tasks: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    task = yaml.safe_load((tasks / "mmlu_astronomy.yaml").read_text(encoding="utf-8"))
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(task | {"doc_to_target": "anwser"}), encoding="utf-8")
    for folder, told in ((tmp_path, f"the answer of {count(len(MMLU['astronomy']), 'question')} is none"), (tasks, "")):
        caplog.clear()
        Harness(["mmlu_astronomy"], HarnessSettings(shots=0, include_path=str(folder)))(*loaded)
        assert told in caplog.text
        assert bool(caplog.text) == bool(told)


def test_a_task_file_that_is_no_yaml_is_named(adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = TaskManager.__init__
    monkeypatch.setattr(
        TaskManager, "__init__", lambda self, **_: start(self, include_path=str(tmp_path), include_defaults=False)
    )
    (tmp_path / "own.yaml").write_text('task: own\ndoc_to_text: "{{question\n', encoding="utf-8")
    said = refused(adapter, "--tasks", "own", "--include-path", str(tmp_path))
    assert f"{tmp_path / 'own.yaml'} is no YAML: " in said
    assert "line 2" in said


def test_disciplines_are_the_published_ones() -> None:
    known = benchmarks()
    sizes = {
        name: [list(benchmark.disciplines.values()).count(d) for d in ("STEM", "Social", "Humanities", "Others")]
        for name, benchmark in known.items()
    }
    assert sizes == {"mmlu": [19, 12, 13, 13], "ceval-valid": [20, 10, 11, 11]}
    group = Path(lm_eval.__file__).parent / "tasks/ceval/_ceval-valid.yaml"
    shipped = {task.removeprefix("ceval-valid_") for task in yaml.safe_load(group.read_text())["task"]}
    assert set(known["ceval-valid"].disciplines) == shipped
    assert len(known["ceval-valid"].hard) == 8
    assert {known["ceval-valid"].disciplines[subject] for subject in known["ceval-valid"].hard} == {"STEM"}
    assert known["mmlu"].disciplines["professional_law"] == "Humanities"


def test_a_column_without_subjects_is_left_out() -> None:
    assert benchmarks()["ceval-valid"].columns({"law": SubjectScore(0.5, 4)}) == {"Humanities": 50.0, "Average": 50.0}


def test_the_runs_own_held_out_rows_are_scored_without_being_asked(adapter: Path, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "mmlu.jsonl", mmlu_questions().to_list())
    code, output = evaluate(adapter, "--data", str(path), "--set", "data.format=mmlu", "--limit", "5")
    assert code == 0
    header, base, own = output.splitlines()[-3:]
    assert header.split() == ["loss", "accuracy", "examples"]
    assert own.split()[0] == "adapter"
    assert own.split()[2:] == ["0.800", "5"], "four of the first five answers are B"
    assert base.split()[0] == "base"
    assert float(own.split()[1]) < float(base.split()[1])


def test_a_model_without_a_run_is_named_by_the_adapter_or_the_user(adapter: Path, model: str, tmp_path: Path) -> None:
    alone = tmp_path / "adapter"
    alone.mkdir()
    for file in adapter.iterdir():
        (alone / file.name).write_bytes(file.read_bytes())
    assert adapter_config(alone, {}).model.name == model
    settings = json.loads((alone / "adapter_config.json").read_text())
    (alone / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": None}))
    assert adapter_config(alone, {"model.name": model}).lora.rank == 4
    assert "names a model; give --model" in refused(alone)


def test_an_adapter_that_is_not_there_or_does_not_fit_is_refused(adapter: Path, tmp_path: Path) -> None:
    assert "no adapter_config.json there" in refused(tmp_path)
    (tmp_path / "adapter_config.json").write_text("[" * 100_000)
    assert "its adapter_config.json is not what PEFT writes" in refused(tmp_path)
    assert "does not fit" in refused(adapter, "--model", "demo")


def copied(adapter: Path, folder: Path) -> Path:
    """A copy of the adapter and of its run's configuration."""
    shutil.copytree(adapter.parent, folder)
    return folder / "adapter"


@pytest.mark.parametrize("name", ["config.toml", "adapter/base_sample.json", "adapter/adapter_config.json"])
def test_a_named_pipe_is_not_waited_for(adapter: Path, tmp_path: Path, name: str) -> None:
    own = copied(adapter, tmp_path / "run")
    (own.parent / name).unlink(missing_ok=True)
    os.mkfifo(own.parent / name)
    assert name.rpartition("/")[2] in refused(own)


@pytest.mark.parametrize(
    "sample", ["[" * 200_000, "[1]", "{}", '{"input_embedding": "x"}', '{"input_embedding": [[1]]}', "{"]
)
def test_a_damaged_sample_of_the_base_model_is_refused(adapter: Path, tmp_path: Path, sample: str) -> None:
    own = copied(adapter, tmp_path / "run")
    (own / BASE_FILE).write_text(sample)
    with pytest.raises(ConfigError, match=r"run/adapter\": its base_sample\.json is damaged; fetch it again$"):
        load_adapter(own, adapter_config(own, {}))


_TOO_MUCH = b'{"a.lora_A.weight": {"dtype": "F32", "shape": [1099511627776, 1048576], "data_offsets": [0, 8]}}'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("adapter_model.safetensors", b"half"),
        ("adapter_model.safetensors", len(_TOO_MUCH).to_bytes(8, "little") + _TOO_MUCH + bytes(8)),
        ("adapter_model.bin", b""),
        ("adapter_model.bin", pickle.dumps(Path())),
        ("adapter_model.bin", pickle.dumps({"a": 1}, 2)),
        ("adapter_model.bin", pickle.dumps([1], 2)),
    ],
)
def test_damaged_weights_are_refused(adapter: Path, tmp_path: Path, name: str, content: bytes) -> None:
    own = copied(adapter, tmp_path / "run")
    (own / "adapter_model.safetensors").unlink()
    (own / name).write_bytes(content)
    with pytest.raises(ConfigError, match=r"run/adapter\": its weights are damaged, or no tensors; fetch it again$"):
        load_adapter(own, adapter_config(own, {}))


def test_another_base_model_of_the_same_shape_is_refused_and_another_dtype_taken(
    adapter: Path, model: str, loaded: tuple[AdaptedModel, torch.Tensor], tmp_path: Path
) -> None:
    RunFolder(tmp_path).save_adapter(*loaded, "demo")
    own = tmp_path / "adapter"
    for dtype in ("float32", "bfloat16", "float16"):
        load_adapter(own, adapter_config(own, {"model.name": model, "model.dtype": dtype}))
    other = tmp_path / "other"
    shutil.copytree(model, other)
    moved = {name: values + 0.02 * values.std() for name, values in load_file(other / "model.safetensors").items()}
    save_file(moved, other / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match="is another base model than the one that it was trained on"):
        load_adapter(own, adapter_config(own, {"model.name": str(other)}))
    (own / BASE_FILE).unlink()
    settings = json.loads((own / "adapter_config.json").read_text())
    (own / "adapter_config.json").write_text(json.dumps(settings | {"r": settings["r"] * 2}))
    with pytest.raises(ConfigError, match="size mismatch") as refusal:
        load_adapter(own, adapter_config(own, {"model.name": model}))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lora_alpha": "16x"}, "lora_alpha = '16x'"),
        ({"lora_alpha": 10**400}, "lora_alpha = 1000"),
        ({"r": [4]}, "r = [4]"),
        ({"target_modules": ["q_proj", 1]}, "target_modules = ['q_proj', 1]"),
        ({"use_dora": True}, "use_dora = True"),
        ({"bias": "all"}, "bias = 'all'"),
        ({"peft_type": "IA3"}, "peft_type = 'IA3'"),
        ({"target_modules": "all-linear"}, "target_modules = 'all-linear'"),
    ],
)
def test_adapters_of_another_kind_are_refused(
    adapter: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    settings = json.loads((adapter / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings | changes))
    assert f"only plain LoRA on named modules is supported, not {said}" in refused(tmp_path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--tasks", "e2e"), "task e2e: give its held-out rows with --data"),
        (("--tasks", "e2e,dart", "--data", "x.jsonl"), "tasks e2e, dart: one set with its --data at a time"),
        (("--data", "/absent.jsonl"), 'data.evaluation = "/absent.jsonl": no such file'),
        (("--length-penalty", "0.5"), "--length-penalty 0.5: only beams read it; give --beams 5, say"),
        (("--set", "seed"), '--set "seed": expected key=value'),
        (("--set", "seeds=1"), "seeds: unknown key"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(adapter: Path, options: tuple[str, ...], said: str) -> None:
    assert said in refused(adapter, *options)


def test_an_adapter_of_an_earlier_version_s_run_is_taken(adapter: Path, tmp_path: Path) -> None:
    """Its configuration has keys that are no more."""
    old = shutil.copytree(adapter.parent, tmp_path / "old") / adapter.name
    with (old.parent / "config.toml").open("a", encoding="utf-8") as file:
        file.write("[history]\nrows = 32\n")
    assert adapter_config(old, {}) == adapter_config(adapter, {})


def test_an_unknown_task_is_refused_with_its_likes(adapter: Path, monkeypatch: pytest.MonkeyPatch, tasks: Path) -> None:
    start = TaskManager.__init__
    # the index of the harness's 15,000 files takes ten seconds; the own files stand for it
    monkeypatch.setattr(
        TaskManager, "__init__", lambda self, **_: start(self, include_path=str(tasks), include_defaults=False)
    )
    said = refused(adapter, "--tasks", "mmlu_astromony")
    assert "tasks mmlu_astromony: neither the harness nor this app knows them; did you mean mmlu_astronomy" in said


@pytest.mark.parametrize("task", ["mmlu", "e2e"])
def test_without_the_extra_the_command_says_what_to_install(
    adapter: Path, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    for name in ("lm_eval.tasks", "sacrebleu", "rouge_score.rouge_scorer"):
        monkeypatch.setitem(sys.modules, name, None)
    options = ("--data", str(RECORDS / "e2e.jsonl"), "--new-tokens", "1") if task == "e2e" else ()
    assert 'pip install "dr-encoder[evaluation]"' in refused(adapter, "--tasks", task, *options)


@pytest.mark.parametrize("module", [evaluation_report, evaluation_harness, evaluation_generation, evaluation_columns])
def test_the_extra_is_imported_only_to_be_used(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> None:
    for name in ("lm_eval", "sacrebleu", "rouge_score"):
        monkeypatch.setitem(sys.modules, name, None)
    assert runpy.run_path(str(module.__file__))


def test_missing_hub_data_is_refused_with_what_to_do(
    loaded: tuple[AdaptedModel, torch.Tensor], tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("Couldn't reach 'cais/mmlu' on the Hub")

    harness = Harness(["mmlu"], HarnessSettings(include_path=str(tasks)))
    monkeypatch.setattr(lm_eval, "simple_evaluate", unreachable)
    with pytest.raises(ConfigError, match=r"tasks mmlu: their data could not be read: .*cais/mmlu.*--include-path"):
        harness(*loaded)
