"""``latest`` in the folder of results: which run it names, and what becomes of one that cannot move it."""

from pathlib import Path

import pytest

from server_app.results.checkpoints import ENDED
from server_app.rounds.cohort import FederationError
from tests.support.grids import faulty
from tests.support.tiny import Files, run_tiny, tiny_config, tiny_grid


def test_latest_points_at_the_newest_run_that_has_something_to_show(files: Files, tmp_path: Path) -> None:
    """A run that has only begun, or that failed, does not take the place of one with an adapter."""
    first = run_tiny(tiny_config(files, tmp_path, {"output.name": "one"}))
    assert (tmp_path / "latest").resolve() == first.path
    assert (tmp_path / "latest").is_symlink()
    failing = tiny_config(files, tmp_path, {"output.name": "two", "federation.max-failed-rounds": 1})
    with pytest.raises(FederationError):
        run_tiny(failing, faulty(tiny_grid(failing), raising={1, 2, 3, 4, 5, 6}, silent=set()))
    assert (tmp_path / "two").is_dir()
    assert (tmp_path / "latest").resolve() == first.path
    third = run_tiny(tiny_config(files, tmp_path, {"output.name": "three"}))
    assert (tmp_path / "latest").resolve() == third.path


def test_a_run_ends_where_latest_cannot_be_moved(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a sticky folder another user may have made it first: the run ended with an error, after its last round."""
    (tmp_path / "latest").mkdir()
    folder = run_tiny(tiny_config(files, tmp_path, {"output.name": "one"}))
    assert 'WARNING: "latest" does not name this run' in capsys.readouterr().out
    assert (folder.checkpoint / ENDED).is_file()
    assert not list(tmp_path.glob(".latest-*"))


def test_a_person_s_own_file_of_that_name_stays(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "latest").write_text("notes")
    run_tiny(tiny_config(files, tmp_path, {"output.name": "one"}))
    assert (tmp_path / "latest").read_text() == "notes"
    assert f'WARNING: "latest" does not name this run: {tmp_path / "latest"} is there and no link' in (
        capsys.readouterr().out
    )
