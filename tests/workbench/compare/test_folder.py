"""What a comparison may write over."""

import json
from pathlib import Path

import pytest

from common.config import ConfigError
from workbench.compare.folder import PLOTS, check_folder, remove_stale

OURS = {"schema": 1, "rows": [], "command": "dr-encoder compare", "tuning": {}}


@pytest.mark.parametrize("place", ["file", "file/below/it"])
def test_a_file_is_no_folder(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match=r"--out .*: there is a file of that name; give a folder"):
        check_folder(tmp_path / place)


@pytest.mark.parametrize("name", ["comparison.md", "bytes-knowledge.png"])
@pytest.mark.parametrize("numbers", [None, "no JSON", "[1]", '{"schema": 1}', json.dumps(OURS | {"schema": 9})])
def test_files_that_somebody_else_made_are_not_written_over(tmp_path: Path, name: str, numbers: str | None) -> None:
    (tmp_path / name).write_text("mine")
    if numbers is not None:
        (tmp_path / "comparison.json").write_text(numbers)
    with pytest.raises(ConfigError, match=f"--out .*{name}.* would be overwritten"):
        check_folder(tmp_path)


def test_a_folder_that_is_new_or_a_comparisons_or_holds_other_things_is_accepted(tmp_path: Path) -> None:
    check_folder(tmp_path / "new" / "folder")
    (tmp_path / "notes.md").write_text("mine")
    check_folder(tmp_path)
    (tmp_path / "comparison.md").write_text("ours")
    (tmp_path / "comparison.json").write_text(json.dumps(OURS))
    check_folder(tmp_path)


def test_plots_of_a_larger_comparison_are_taken_away_and_other_files_left(tmp_path: Path) -> None:
    for name in ("utility-elicitation.png", "utility-knowledge.png", "bytes-mine.png", "notes.md"):
        (tmp_path / name).write_text("")
    remove_stale(tmp_path, [tmp_path / "utility-elicitation.png"])
    assert {path.name for path in tmp_path.iterdir()} == {"utility-elicitation.png", "bytes-mine.png", "notes.md"}


def test_no_plot_is_drawn_through_a_link(tmp_path: Path) -> None:
    (tmp_path / PLOTS[0]).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=f"{PLOTS[0]} is a link"):
        check_folder(tmp_path)
