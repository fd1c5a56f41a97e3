"""Keys without effect: which they are said to be, that this is true, and that nobody sets one in vain."""

from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from common.config import ONLY_IF, ConfigError, RunConfig
from server_app.strategies import OPTIONAL_SECTIONS, STRATEGIES
from server_app.strategies.reading import unread
from tests.support.tiny import Files, final_adapter, run_tiny, tiny_config
from workbench.cli import main as cli
from workbench.cli import run as run_command
from workbench.cli.unread_keys import refuse_unread, unread_of_data, unread_warning
from workbench.simulation.launcher import preset_names, read_preset

OTHER: dict[str, dict[str, Any]] = {
    "codec": {"codec.size": 32, "codec.refresh-every": 0, "codec.form": "per-tensor"},
    "fedlpp": {"fedlpp.bits": 5, "fedlpp.rounding": "stochastic"},
    "stage-one": {"stage-one.steps": 1, "stage-one.learning-rate": 0.1},
}
"""Values of every optional section other than those of a tiny run."""


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_section_that_a_strategy_is_said_not_to_read_changes_nothing(files: Files, tmp_path: Path, name: str) -> None:
    assert set(OTHER) == set(OPTIONAL_SECTIONS)
    changes = {"strategy.name": name, "num-server-rounds": 2}
    plain = tiny_config(files, tmp_path / "plain", changes)
    ignored = [key for section in OTHER if section not in STRATEGIES.entry(name).sections for key in OTHER[section]]
    assert ignored
    values = {key: value for section in OTHER.values() for key, value in section.items() if key in ignored}
    other = tiny_config(files, tmp_path / "other", changes | values)
    assert set(unread(other, values)) == set(values)
    assert torch.equal(final_adapter(run_tiny(plain)), final_adapter(run_tiny(other)))


@pytest.mark.parametrize(
    ("changes", "key", "read"),
    [
        ({"strategy.name": "fedlpp"}, "fedlpp.bits", True),
        ({"strategy.name": "fedlpp"}, "codec.size", False),
        ({}, "stage-one.steps", True),
        ({"strategy.name": "lora"}, "stage-one.steps", False),
        ({"strategy.name": "fedcg"}, "codec.form", False),
        ({"strategy.name": "fedcg"}, "stage-one.steps", True),
        ({"train.local-steps": 2}, "train.learning-rate", True),
        ({"train.local-steps": 0, "train.local-epochs": 1}, "train.learning-rate", True),
        ({}, "train.learning-rate", False),
        ({}, "seed", True),
        ({"data.name": "own.jsonl"}, "data.task", False),
    ],
)
def test_what_is_read_depends_on_the_other_keys(changes: dict[str, Any], key: str, read: bool) -> None:
    assert (unread(RunConfig.parse(changes), [key]) == {}) == read


def test_what_a_simulation_does_not_read_of_its_data_is_told(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.touch()
    keys = ["data.prompt-column", "data.subset", "data.train-split", "data.evaluation-split", "seed"]
    demo = {"data.prompt-column", "data.subset", "data.train-split", "data.evaluation-split"}
    for changes, idle in (
        ({}, demo),
        ({"data.evaluation": str(file)}, demo - {"data.prompt-column"}),
        ({"data.evaluation": "a/hub-set"}, {"data.train-split"}),
        ({"data.name": str(file)}, demo - {"data.prompt-column"}),
        ({"data.name": "a/hub-set"}, {"data.evaluation-split"}),
        ({"data.name": str(tmp_path), "data.evaluation": str(tmp_path)}, set()),
    ):
        assert set(unread_of_data(RunConfig.parse(changes), keys)) == idle, changes


def test_every_condition_is_of_a_key_that_exists_and_says_how_it_is_met() -> None:
    known = RunConfig().flat()
    for key, (_, text) in ONLY_IF.items():
        assert key in known
        assert any(name in text for name in known), text


def test_a_typed_key_without_effect_is_refused_and_one_of_a_file_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        ConfigError, match=r"--set codec\.size=64: no effect, for strategy lora does not read codec\.\*"
    ):
        refuse_unread(RunConfig.parse({"strategy.name": "lora"}), {"codec.size": 64, "seed": 3})
    monkeypatch.setattr(run_command, "launch", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    path = tmp_path / "own.toml"
    path.write_text('[strategy]\nname = "lora"\n[codec]\nsize = 64\nrefresh-every = 1\n')
    result = CliRunner().invoke(cli.app, ["run", "--preset", str(path), "--set", f"output.dir={tmp_path}"])
    assert result.exit_code == 130
    assert "warning: without effect under strategy lora: codec.size\n" in result.output


@pytest.mark.parametrize("name", preset_names())
def test_presets_set_nothing_in_vain(name: str) -> None:
    preset = read_preset(name)
    assert unread_warning(RunConfig.parse(preset), preset) == ""


def test_a_strategy_of_ones_own_is_taken_to_read_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STRATEGIES, "own", STRATEGIES["lora"])  # type: ignore[arg-type]
    assert STRATEGIES.entry("own").sections == OPTIONAL_SECTIONS
