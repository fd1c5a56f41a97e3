"""From questions in MMLU's layout on disk to the scores of the adapter that a federation made of them."""

from pathlib import Path
from typing import Any

import pytest

from common.config import ConfigError
from server_app import run
from tests.support.benchmark_files import mmlu_questions, mmlu_rows, save_model, save_tasks
from tests.support.tiny import Files, run_tiny, tiny_config, write_jsonl
from workbench.evaluation.report import Request, evaluate

CHAT: dict[str, Any] = {"data.format": "mmlu", "data.chat-template": True, "model.device": "cpu"}


@pytest.fixture
def files(tmp_path: Path) -> Files:
    private = [
        row for subject in ("astronomy", "sociology") for row in mmlu_rows(subject, "ABCD" * 9)[12:]
    ]  # none is asked below
    public = mmlu_questions().to_list()
    return Files(write_jsonl(tmp_path / "private.jsonl", private), write_jsonl(tmp_path / "public.jsonl", public))


def test_a_run_on_a_format_in_a_chat_template_is_evaluated_as_it_was_trained(files: Files, tmp_path: Path) -> None:
    changes = CHAT | {"strategy.name": "lora", "model.name": save_model(tmp_path / "model", chat=True)}
    folder = run_tiny(tiny_config(files, tmp_path / "results", changes))
    last = folder.read_metrics()[-1]
    assert last["replies"] == 6
    report = evaluate(
        Request(folder.path / "adapter", ("mmlu",), include_path=str(save_tasks(tmp_path / "own")), shots=1)
    )
    found = report["scores"]["adapter"]
    assert found["held-out"]["loss"] == pytest.approx(last["loss"], rel=1e-4)
    assert found["held-out"]["accuracy"] == pytest.approx(last["accuracy"])
    assert found["mmlu"]["questions"] == 12
    assert report["scores"]["base"]["held-out"]["loss"] == pytest.approx(folder.read_metrics()[0]["loss"], rel=1e-4)


def test_a_run_with_a_template_that_the_tokenizer_lacks_is_refused_before_a_client_is_waited_for(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "connect", lambda *_: pytest.fail("clients were waited for"))
    with pytest.raises(ConfigError, match=r"data.chat-template = true"):
        run_tiny(tiny_config(files, tmp_path, CHAT))
