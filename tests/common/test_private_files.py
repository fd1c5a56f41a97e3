import os
from pathlib import Path

import pytest

from common.private_files import close_to_others, open_to_others, private_file
from tests.support.file_modes import umask


def test_a_folder_is_closed_while_somebody_replaces_files_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever resumed a run under way could meet a file of its checkpoint between being made and being renamed."""
    kept, listed = tmp_path / "kept", Path.rglob
    kept.write_text("x")
    kept.chmod(0o644)
    monkeypatch.setattr(Path, "rglob", lambda self, pattern: [self / "gone", *listed(self, pattern)])
    close_to_others(tmp_path)
    assert kept.stat().st_mode & 0o777 == 0o600


def test_what_a_published_link_names_is_not_opened_to_others(tmp_path: Path) -> None:
    """A folder to resume from somebody else, whose ``adapter`` is a link to the keys of who resumes it."""
    key = tmp_path / "keys" / "id"
    key.parent.mkdir()
    key.touch(0o600)
    (tmp_path / "adapter").symlink_to(key.parent)
    (tmp_path / "report.md").symlink_to(key)
    for name in ("adapter", "report.md"):
        open_to_others(tmp_path / name)
    assert key.stat().st_mode & 0o777 == 0o600


def test_a_private_file_that_is_there_already_is_closed_and_one_that_others_can_read_anyway_is_refused(
    tmp_path: Path,
) -> None:
    with umask(0):
        for name in ("new", "open"):
            path = tmp_path / name
            if name == "open":
                path.write_text("of an earlier run\n", encoding="utf-8")
            private_file(path)
            assert path.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "open").read_text(encoding="utf-8") == "of an earlier run\n"
    (tmp_path / "link").symlink_to(tmp_path / "new")
    (tmp_path / "twice").hardlink_to(tmp_path / "open")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "twice", "open", "folder", "pipe"):
        with pytest.raises(PermissionError, match=f"{name} is no file of this user alone"):
            private_file(tmp_path / name)
