"""``output.tensorboard``: what TensorBoard itself reads is what the metrics say."""

import math
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from common.config import ConfigError
from server_app.results import tensorboard as scalars
from server_app.results.folder import RunFolder
from server_app.results.tensorboard import Scalars
from server_app.run import check_run
from tests.support.tiny import Files, run_tiny, tiny_config

NOISY: dict[str, Any] = {"privacy.epsilon": 0.0, "privacy.noise-multiplier": 2.0, "server.divergence-factor": 1e9}


def shown(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every scalar as TensorBoard shows it: steps and values."""
    reader = EventAccumulator(str(folder))
    reader.Reload()
    return {tag: [(item.step, item.value) for item in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def test_every_figure_of_a_round_is_there_under_its_round(files: Files, tmp_path: Path) -> None:
    folder = run_tiny(tiny_config(files, tmp_path, NOISY | {"output.tensorboard": True}))
    found, rows = shown(folder.tensorboard), folder.read_metrics()
    assert set(found) >= {"loss", "accuracy", "epsilon", "bytes_up", "bytes_down", "replies", "cohort", "seconds"}
    for tag, points in found.items():
        held = [(row["round"], row[tag.replace("/", ".")]) for row in rows if tag.replace("/", ".") in row]
        assert [step for step, _ in points] == [step for step, _ in held]
        assert [value for _, value in points] == pytest.approx([value for _, value in held], rel=1e-6)
    assert [step for step, _ in found["loss"]] == [0, 1, 2, 3]
    assert [step for step, _ in found["epsilon"]] == [1, 2, 3]
    assert any(tag.startswith("loss/") for tag in found)


def test_nothing_is_written_unless_it_is_asked_for(files: Files, tmp_path: Path) -> None:
    folder = run_tiny(tiny_config(files, tmp_path, {"strategy.name": "lora", "data.evaluation": ""}))
    assert not folder.tensorboard.exists()


def test_of_a_round_that_was_run_twice_the_last_account_is_shown(tmp_path: Path) -> None:
    """A server that dies between a round's metrics and its checkpoint runs the round again when it is resumed."""
    for first, loss in ((1, 5.0), (2, 3.0)):
        writer = Scalars(tmp_path, first)
        for number in range(first, 4):
            writer.write({"round": number, "loss": loss})
        writer.close()
    assert shown(tmp_path)["loss"] == [(1, 5.0), (2, 3.0), (3, 3.0)]


def test_what_is_no_finite_number_is_left_out(tmp_path: Path) -> None:
    writer = Scalars(tmp_path, 1)
    writer.write({"round": 1, "epsilon": "inf", "loss": math.nan, "shortage": "", "replies": 0})
    assert shown(tmp_path) == {"replies": [(1, 0.0)]}, "on disk without a close"


def test_without_the_package_the_run_is_refused_before_it_starts(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scalars, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"output\.tensorboard = true: the package tensorboard is not installed"):
        check_run(tiny_config(files, tmp_path, {"output.tensorboard": True}))
    check_run(tiny_config(files, tmp_path))
    assert not RunFolder(tmp_path / "run").path.exists()
