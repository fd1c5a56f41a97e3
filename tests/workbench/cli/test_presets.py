"""Where a run's configuration comes from: presets, overrides, an interrupted run."""

from pathlib import Path
from typing import Any

import pytest

from common.config import ConfigError, RunConfig
from tests.support.interrupted_runs import write_interrupted
from workbench.cli import run as run_command
from workbench.cli.overrides import parse_override
from workbench.simulation.launcher import LaunchError, read_preset


def test_a_preset_is_read_by_its_name() -> None:
    preset = read_preset("demo")
    assert preset["federation.num-clients"] == 1000
    assert all(key in RunConfig().flat() for key in preset)


def test_a_preset_may_be_any_toml_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('num-server-rounds = 3\n[codec]\nsize = 7\n[privacy]\ntrust = "local"\n')
    assert read_preset(str(path)) == {"num-server-rounds": 3, "codec.size": 7, "privacy.trust": "local"}


def test_a_preset_written_on_windows_is_read(tmp_path: Path) -> None:
    """A byte-order mark, CRLF, and letters beyond ASCII."""
    path = tmp_path / "mine.toml"
    path.write_bytes('\ufeffnum-server-rounds = 3\r\ndata.name = "/srv/Größe.jsonl"\r\n'.encode())
    assert read_preset(str(path)) == {"num-server-rounds": 3, "data.name": "/srv/Größe.jsonl"}


def test_an_unknown_preset_is_refused_with_those_that_exist() -> None:
    with pytest.raises(LaunchError, match=r'preset "demoo": neither a preset \(.*demo.*\) nor a TOML file'):
        read_preset("demoo")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("privacy.epsilon=4", ("privacy.epsilon", 4)),
        ("privacy.epsilon=inf", ("privacy.epsilon", float("inf"))),
        ("lora.freeze-a=true", ("lora.freeze-a", True)),
        ("strategy.name=lora", ("strategy.name", "lora")),
        ('strategy.name = "lora"', ("strategy.name", "lora")),
        ("data.name=a=b.csv", ("data.name", "a=b.csv")),
        ("lora.target-modules=q_proj,v_proj", ("lora.target-modules", "q_proj,v_proj")),
    ],
)
def test_overrides_are_toml_and_bare_words_are_text(text: str, expected: tuple[str, Any]) -> None:
    key, value = parse_override(text)
    assert (key, value) == expected
    assert type(value) is type(expected[1])


def test_an_override_without_a_value_is_refused() -> None:
    with pytest.raises(ConfigError, match=r'--set "seed": expected key=value'):
        parse_override("seed")


def test_paths_are_made_absolute_because_flower_runs_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("own.jsonl", "held-out.csv"):
        (tmp_path / name).touch()
    (tmp_path / "model").mkdir()
    overrides = ["data.name=own.jsonl", "data.evaluation=held-out.csv", "model.name=model", "output.name=mine"]
    config = run_command._configure("demo", overrides, None)
    assert config.data.name == str(tmp_path / "own.jsonl")
    assert config.data.evaluation == str(tmp_path / "held-out.csv")
    assert config.model.name == str(tmp_path / "model")
    assert (config.output.dir, config.output.name) == (str(tmp_path / "results"), "mine")


def test_overrides_win_over_the_preset() -> None:
    assert run_command._configure("demo", ["federation.num-clients=5"], None).federation.num_clients == 5


def test_resume_takes_the_configuration_and_the_place_of_the_run(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    write_interrupted(folder)
    config = run_command._configure(None, [], folder)
    assert (config.seed, config.resume) == (77, str(folder))
    assert (config.output.dir, config.output.name) == (str(tmp_path), "mine")
