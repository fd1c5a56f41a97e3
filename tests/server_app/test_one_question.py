"""A single held-out question has a score and no standard error of its loss: the run ends as any other."""

import json
from pathlib import Path

import pytest

from tests.support.tiny import Files, run_tiny, tiny_config, write_jsonl


@pytest.mark.parametrize("choices", [True, False])
def test_one_held_out_question_is_enough_for_a_report(files: Files, tmp_path: Path, choices: bool) -> None:
    row = json.loads(files.public.read_text(encoding="utf-8").splitlines()[0])
    kept = row if choices else {name: value for name, value in row.items() if name != "choices"}
    public = write_jsonl(tmp_path / "one.jsonl", [kept])
    changes = {"data.evaluation": str(public), "num-server-rounds": 1, "strategy.name": "lora"}
    folder = run_tiny(tiny_config(files, tmp_path / "results", changes), plots=True)
    final = json.loads((folder.path / "report.json").read_text(encoding="utf-8"))["outcome"]["final"]
    assert final["loss_error"] is None
    for page in ("report.md", "adapter/README.md"):
        assert f"| {final['loss']:.3f} |" in (folder.path / page).read_text(encoding="utf-8")
    assert f"{final['loss']:.3f}" in (folder.path / "report.html").read_text(encoding="utf-8")
