"""Where results go: a folder in which nobody can put another in a run's place."""

from pathlib import Path

import pytest

from common.config import ConfigError
from server_app.results.output_place import check_output
from tests.support.tiny import Files, tiny_config


@pytest.mark.parametrize(("mode", "refused"), [(0o777, True), (0o703, True), (0o1777, False), (0o775, False)])
def test_a_folder_in_which_anybody_may_swap_a_run_for_another_is_refused(
    files: Files, tmp_path: Path, mode: int, refused: bool
) -> None:
    """Whoever renames a run's folder and makes one of that name reads what is written next: a round's cohort."""
    place = tmp_path / "results"
    place.mkdir()
    place.chmod(mode)
    for changes in ({}, {"resume": str(place / "run")}):
        config = tiny_config(files, place, changes)
        if refused:
            with pytest.raises(ConfigError, match=r"every user may rename what lies in it; close it \(chmod o-w\)"):
                check_output(config)
        else:
            check_output(config)
