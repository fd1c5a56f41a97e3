"""What a client takes is measured as it is planned: both of the same configuration, both above nothing."""

from pathlib import Path

from benchmarks.planned import planned, taken
from tests.support.layouts import write_model
from tests.support.tiny import Files, tiny_config


def test_a_step_is_measured_and_planned(tmp_path: Path, files: Files) -> None:
    keys = tiny_config(files, tmp_path, {"model.name": str(write_model("llama", tmp_path / "model"))}).flat()
    (peak, seconds), (memory, planned_seconds) = taken(keys, 2), planned(keys)
    assert min(peak, memory) > 10**8
    assert 0 < seconds < 60
    assert 0 < planned_seconds < 60
