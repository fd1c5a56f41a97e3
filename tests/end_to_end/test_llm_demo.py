"""``make demo-llm`` without its model: the rows it makes up, its preset, the samples it ends with."""

import json
import re
from pathlib import Path

import pytest

from common.config import ConfigError, RunConfig
from common.data import check_evaluation_is_public, private_examples
from tests.support.layouts import write_model
from workbench.llm_demo import demo
from workbench.llm_demo.visits import PRACTICES, write_visits
from workbench.simulation.launcher import read_preset


def rows_of(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_visits_are_some_thousand_the_same_each_time_and_none_is_held_out(tmp_path: Path) -> None:
    private, public = write_visits(tmp_path / "a")
    again = write_visits(tmp_path / "b")
    assert [path.read_bytes() for path in (private, public)] == [path.read_bytes() for path in again]
    held, asked = rows_of(private), rows_of(public)
    assert 2000 < len(held) < 10_000
    assert len(asked) > 70
    assert not {row["prompt"] for row in held} & {row["prompt"] for row in asked}


def test_a_note_says_what_its_record_says(tmp_path: Path) -> None:
    for row in rows_of(write_visits(tmp_path)[0])[::7]:
        found = re.fullmatch(
            r"Visit\. patient: Mrs? (\w+) \| time: (\w+) \| done: (.+) \| seen: (.+) \| pain: (\d) of 10 "
            r"\| next: (\w{3})\w+\nHandover note:",
            row["prompt"],
        )
        assert found
        name, time, done, seen, pain, back = found.groups()
        when = {"morning": "a.m.", "noon": "noon", "evening": "p.m."}[time]
        note = row["completion"].lower()
        assert note.startswith(f" {name.lower()}, {when}: {done.lower()}")
        assert note.endswith(f"pain {pain}/10. back {back.lower()}.")
        assert seen.lower() in note


def test_every_practice_is_a_client_and_the_preset_is_for_them(tmp_path: Path) -> None:
    private, public = write_visits(tmp_path)
    config = RunConfig.parse(
        read_preset(str(demo.PRESET)) | {"data.name": str(private), "data.evaluation": str(public), "model.name": "x/y"}
    )
    assert config.federation.num_clients == PRACTICES
    assert (config.privacy.epsilon, config.data.partitioner) == (2.0, "natural")
    check_evaluation_is_public(config.data, PRACTICES, 1)
    sizes = [len(private_examples(config.data, client, PRACTICES, 1)) for client in (0, PRACTICES - 1)]
    assert min(sizes) > 30


def test_a_model_that_was_not_fetched_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(demo, "PACKAGE", tmp_path / "absent")
    with pytest.raises(ConfigError, match="make demo-llm fetches it, or name a model with --model"):
        demo.packaged_model()


def test_samples_show_the_first_line_of_either_model() -> None:
    sample = {"prompt": "Visit 1\nNote:", "reference": "Cole, noon.", "base": "Visit\n\nVisit", "tuned": "Cole, noon."}
    assert demo.as_text([sample]) == (
        "\n  Visit 1\n  Note:\n    base    Visit …\n    tuned   Cole, noon.\n    really  Cole, noon."
    )


def test_the_whole_demo_goes_through_on_a_tiny_model(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = write_model("llama", tmp_path / "model")
    changes = ["num-server-rounds=1", "model.dtype=float32", "privacy.sampling-rate=0.1", "stage-one.sampling-rate=0.1"]
    demo.demo(str(model), tmp_path / "results", tmp_path / "rows", "inline", [*changes, "data.max-length=512"])
    said = capfd.readouterr().out
    assert "finished: all rounds done" in said
    assert "Visits that no client holds, before and after" in said
    assert said.count("    tuned   ") == 5
