"""Numbers that are written beyond what a float holds are refused, not taken for 0 or inf."""

import tomllib
from pathlib import Path

import pytest

from common.config import ConfigError
from common.config.toml_files import float_of, read_tables
from workbench.simulation.launcher import LaunchError, read_toml


@pytest.mark.parametrize("text", ["0.0", "-0e9", "0.000", "1e-5", "inf", "-inf", "+inf", "nan", "1_000.5", "5e-324"])
def test_what_a_float_can_hold_is_what_toml_reads(text: str) -> None:
    assert repr(float_of(text)) == repr(tomllib.loads(f"x = {text}")["x"])


@pytest.mark.parametrize("text", ["1e-330", "-0.001e-400", "1e400", "-9e999"])
def test_what_it_cannot_is_refused_in_a_file_too(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="beyond what a float can hold"):
        float_of(text)
    (tmp_path / "run.toml").write_text(f"privacy.delta = {text}\n")
    with pytest.raises(LaunchError, match="beyond what a float can hold"):
        read_toml(tmp_path / "run.toml", "--config")
    with pytest.raises(ConfigError, match="beyond what a float can hold"):
        read_tables(tmp_path / "run.toml")


def test_a_file_that_is_nested_deeper_than_python_s_stack_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(f"x = {'[' * 100_000}")
    with pytest.raises(LaunchError, match=r"^--config: .*run\.toml is not a readable TOML file: .*recursion"):
        read_toml(tmp_path / "run.toml", "--config")
