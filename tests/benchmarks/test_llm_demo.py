"""The demonstration with a played cohort, on a tiny model: its rows, its preset, and the noise of all its clients."""

from pathlib import Path

import pytest

from benchmarks.llm_demo import played
from tests.support.layouts import write_model
from workbench.compare.played import not_for_players


def test_some_practices_play_all_of_them(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = write_model("llama", tmp_path / "model")
    changes = ["num-server-rounds=1", "model.dtype=float32", "data.max-length=512", "evaluation.every=1"]
    samples = played(tmp_path, str(model), 9, 2, changes)
    said = capfd.readouterr().out
    assert samples.count("    tuned   ") == 5
    assert "9 clients, expected cohort 9" in said
    loud = "WARNING: NOT PRIVATE FOR THE PLAYERS: 2 of 9 clients play, each for up to 5."
    first, *_, last = said.splitlines()
    assert first.startswith(loud)
    assert last.startswith(loud), "behind the last epsilon, too"
    assert "cohort 9/9  epsilon 2.0" in said or "cohort 9/9  epsilon 1.99" in said


def test_where_every_client_plays_itself_epsilon_holds() -> None:
    assert not_for_players(9, 9) == ""
